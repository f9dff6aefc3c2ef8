# SPDX-License-Identifier: Apache-2.0
"""Downloads an image like nova-compute if it is not in the image cache.

This program runs like the compute service, with its user, configuration file,
concurrency mode and privsep daemon. It needs only this file of the lab, so it
can measure any Nova.

The login comes from the usual environment variables: OS_AUTH_URL,
OS_PROJECT_NAME, and OS_TOKEN or OS_USERNAME with OS_PASSWORD.
"""

if __name__ == '__main__':
    import os
    # Native threading by default, in every release.
    os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', 'true')
    from nova import monkey_patch
    monkey_patch.patch()

import argparse
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import hashlib
import logging as py_logging
import os
import pathlib
import shlex
import sys
import time
import typing as ty

from keystoneauth1.identity import v3
from keystoneauth1 import session as ks_session
from oslo_log import log as logging
from oslo_privsep import priv_context
from oslo_serialization import jsonutils
from oslo_utils import fileutils
from oslo_utils import uuidutils

import nova.conf
from nova import config
from nova import context as nova_context
from nova.image import glance
from nova import objects
import nova.privsep
from nova import service_auth
from nova import utils
from nova.virt.libvirt import imagebackend
from nova.virt.libvirt import imagecache
from nova.virt.libvirt import utils as libvirt_utils

CONF = nova.conf.CONF


@dataclasses.dataclass(frozen=True)
class Report:
    """One finished fetch.

    :ivar path: the file it made or found
    :ivar sha256: of the file's content, in hexadecimal; None if unasked
    :ivar size: length in bytes
    :ivar allocated: bytes on disk
    :ivar mode: permission bits
    :ivar uid: the owner
    :ivar seconds: of the fetch alone, not of start-up or of this report
    :ivar max_rss: the process's peak memory in bytes
    :ivar rss_growth: bytes by which that was above the memory before
    :ivar cpu_seconds: of all processes of the host, rbd among them
    :ivar log: what it logged, DEBUG included, as "LEVEL logger message"
    """

    path: pathlib.Path
    sha256: str | None
    size: int
    allocated: int
    mode: int
    uid: int
    seconds: float
    max_rss: int
    rss_growth: int
    cpu_seconds: float
    log: list[str]


class _Recorder(py_logging.Handler):
    """Keeps log records as lines of text."""

    def __init__(self) -> None:
        super().__init__(py_logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(py_logging.Formatter(
            '%(levelname)s %(name)s %(message)s'))

    def emit(self, record: py_logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def authentication(env: Mapping[str, str]) -> v3.Password | v3.Token:
    """A keystoneauth plugin from OS_* variables.

    :raises KeyError: naming the variable that is missing
    """
    project = env['OS_PROJECT_NAME']
    domain = env.get('OS_PROJECT_DOMAIN_ID', 'default')
    if token := env.get('OS_TOKEN'):
        return v3.Token(env['OS_AUTH_URL'], token, project_name=project,
                        project_domain_id=domain)
    return v3.Password(
        env['OS_AUTH_URL'], username=env['OS_USERNAME'],
        password=env['OS_PASSWORD'],
        user_domain_id=env.get('OS_USER_DOMAIN_ID', 'default'),
        project_name=project, project_domain_id=domain)


def request_context(
        auth: v3.Password | v3.Token,
        session: ks_session.Session) -> nova_context.RequestContext:
    """The context nova-api would make of a request with this login.

    The service catalog is in Keystone's v2 form, as Nova keeps it.
    """
    access = auth.get_access(session)
    catalog = [
        {'type': service['type'], 'name': service['name'],
         'endpoints': _v2_endpoints(service['endpoints'])}
        for service in access.service_catalog.catalog]
    return nova_context.RequestContext(
        user_id=access.user_id, user_name=access.username,
        project_id=access.project_id, project_name=access.project_name,
        user_domain_id=access.user_domain_id,
        project_domain_id=access.project_domain_id,
        roles=access.role_names, auth_token=access.auth_token,
        service_catalog=catalog, is_admin=False, overwrite=False)


def _v2_endpoints(endpoints: list[dict[str, str]]) -> list[dict[str, str]]:
    regions: dict[str, dict[str, str]] = {}
    for one in endpoints:
        region = regions.setdefault(one['region'], {'region': one['region']})
        region[one['interface'] + 'URL'] = one['url']
    return list(regions.values())


def _trusted_certs(ids: list[str]) -> 'objects.TrustedCerts | None':
    return objects.TrustedCerts(ids=ids) if ids else None


def _fetch_to_cache(context: nova_context.RequestContext, image_id: str,
                    certs: list[str]) -> str:
    """Create a local root disk in the way of the libvirt driver."""
    instance = objects.Instance(
        uuid=uuidutils.generate_uuid(), trusted_certs=_trusted_certs(certs))
    directory = libvirt_utils.get_instance_path(instance)
    fileutils.ensure_tree(directory)
    disk = imagebackend.Backend(CONF.use_cow_images).by_name(
        instance, 'disk',
        disk_info_mapping={'bus': 'virtio', 'dev': 'vda', 'type': 'disk'})
    name = imagecache.get_cache_fname(image_id)
    disk.cache(
        fetch_func=libvirt_utils.fetch_image, context=context, filename=name,
        image_id=image_id, size=None, trusted_certs=instance.trusted_certs)
    return os.path.join(
        CONF.instances_path, CONF.image_cache.subdirectory_name, name)


def fetch_to_path(context: nova_context.RequestContext, image_id: str,
                  path: str, certs: list[str]) -> str:
    """Download an image to a file; returns its path."""
    glance.API().download(context, image_id, dest_path=path,
                          trusted_certs=_trusted_certs(certs))
    return path


class Meter:
    """Measures resources from its creation to stop()."""

    def __init__(self) -> None:
        # 5 resets the peak to what is used now: see proc(5).
        pathlib.Path('/proc/self/clear_refs').write_text('5')
        self._rss = _memory('VmRSS')
        self._cpu = _processor_seconds()
        self._begin = time.monotonic()

    def stop(self) -> None:
        self.seconds = round(time.monotonic() - self._begin, 3)
        self.cpu_seconds = round(_processor_seconds() - self._cpu, 2)
        self.max_rss = _memory('VmHWM')
        self.rss_growth = max(0, self.max_rss - self._rss)


def _memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in pathlib.Path('/proc/self/status').read_text().splitlines():
        name, value = line.split(':')
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)


def _processor_seconds() -> float:
    """Of all processes there are, and of those that they have waited for."""
    ticks = 0
    for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = stat.read_text().rpartition(')')[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # utime, stime, cutime and cstime of proc(5).
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf('SC_CLK_TCK')


def report(path: str, meter: Meter, log: list[str],
           digest: bool = True) -> Report:
    """Return the result of a download.

    :param digest: whether to take the time for the SHA-256
    """
    with open(path, 'rb') as stream:
        sha256 = (hashlib.file_digest(stream, 'sha256').hexdigest()
                  if digest else None)
        status = os.fstat(stream.fileno())
    return Report(
        path=pathlib.Path(path), sha256=sha256, size=status.st_size,
        allocated=status.st_blocks * 512, mode=status.st_mode & 0o7777,
        uid=status.st_uid, seconds=meter.seconds, max_rss=meter.max_rss,
        rss_growth=meter.rss_growth, cpu_seconds=meter.cpu_seconds, log=log)


def prepare(*config_files: str, directories: Iterable[str] = ()) -> _Recorder:
    """Initialize the process like nova-compute, without messaging."""
    argv = ['nova-compute']
    for path in config_files:
        argv += ['--config-file', path]
    for path in directories:
        argv += ['--config-dir', path]
    config.parse_args(argv, configure_db=False, init_rpc=False)
    logging.setup(CONF, 'nova')
    recorder = _Recorder()
    py_logging.getLogger().addHandler(recorder)
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    objects.register_all()
    return recorder


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m lab.fetch',
        description='Fetch an image into the image cache, as nova-compute '
                    'does on a cache miss.')
    parser.add_argument('image_id', metavar='IMAGE_ID', nargs='?')
    parser.add_argument('--config-file', action='append', default=[],
                        metavar='NOVA_CONF', help='may be given more than '
                        'once; by default, what nova-compute finds')
    parser.add_argument('--config-dir', action='append', default=[],
                        metavar='DIRECTORY')
    parser.add_argument('--path', help='download to this file instead')
    parser.add_argument('--trusted-cert', action='append', default=[],
                        metavar='ID', help='certificate to verify with; may '
                                           'be given more than once')
    parser.add_argument('--start-privsep', action='store_true',
                        help='have the privsep daemon up before the clock '
                             'starts, as a compute service has')
    parser.add_argument('--json', action='store_true',
                        help='report in JSON, log lines included')
    parser.add_argument('--serve', action='store_true',
                        help='fetch one image after another: on each line of '
                             'standard input is a JSON object with image_id, '
                             'path (or null), trusted_certs and digest (of '
                             'the file, to be reported), and a line of JSON '
                             'answers it; it reads NOVA_CONF again each time')
    args = parser.parse_args(argv)
    if bool(args.image_id) == args.serve:
        parser.error('either IMAGE_ID or --serve is needed')
    return args


def _attempt(context: nova_context.RequestContext, recorder: _Recorder,
             image_id: str, path: str | None, certs: list[str],
             digest: bool = True) -> dict[str, ty.Any]:
    """The report of a fetch, or Nova's error, as a dictionary."""
    meter = Meter()
    try:
        if path:
            path = fetch_to_path(context, image_id, path, certs)
        else:
            path = _fetch_to_cache(context, image_id, certs)
    except Exception as exc:
        py_logging.getLogger('nova').exception('The fetch failed')
        return {'error': type(exc).__name__, 'message': str(exc),
                'log': recorder.lines}
    meter.stop()
    return dataclasses.asdict(report(path, meter, recorder.lines, digest))


def reload_options() -> bool:
    """Read nova.conf again, and stop the privsep daemon if necessary.

    The daemon reads these options when it starts, with the next call. Its
    start takes a second, so it stops only if one of them has changed.

    :returns: whether nova.conf can be read
    """
    before = _daemon_options()
    # The released Nova has no such module.
    if rbd_cluster := sys.modules.get('nova.image.rbd.cluster'):
        rbd_cluster._left_out.clear()
    if not CONF.reload_config_files():
        return False
    if _daemon_options() != before:
        nova.privsep.sys_admin_pctxt.stop()
    return True


def _daemon_options() -> list[object]:
    # The released Nova has only some of them.
    return [CONF[group][name] for group in ('glance', 'libvirt')
            for name in sorted(CONF[group]) if 'rbd' in name]


def _serve(context: nova_context.RequestContext,
           recorder: _Recorder) -> None:
    for line in sys.stdin:
        recorder.lines.clear()
        if not reload_options():
            raise SystemExit('nova.conf cannot be read')
        # Logins are kept for as long as the service runs.
        service_auth.reset_globals()
        request = jsonutils.loads(line)
        _print(_attempt(context, recorder, request['image_id'],
                        request['path'], request['trusted_certs'],
                        request['digest']), True)


def _print(result: dict[str, ty.Any], as_json: bool) -> None:
    if as_json:
        print(jsonutils.dumps(result, default=str), flush=True)
        return
    for name, value in result.items():
        if name != 'log':
            print(f'{name:10} {oct(value) if name == "mode" else value}')


def main(argv: list[str] | None = None) -> int:
    """:returns: 0 when the image is there, 1 when Nova raised an error"""
    args = _arguments(argv)
    recorder = prepare(*args.config_file, directories=args.config_dir)
    if args.start_privsep:
        nova.privsep.sys_admin_pctxt.start()
    context = request_context(
        authentication(os.environ), ks_session.Session())
    if args.serve:
        _serve(context, recorder)
        return 0
    answer = _attempt(context, recorder, args.image_id, args.path,
                      args.trusted_cert)
    _print(answer, args.json)
    return int('error' in answer)


if __name__ == '__main__':
    sys.exit(main())

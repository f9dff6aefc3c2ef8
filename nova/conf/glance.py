# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""The ``[glance]`` options: the image service, signatures, downloads."""

import os

from keystoneauth1 import loading as ks_loading
from oslo_config import cfg

from nova.conf import utils as confutils


DEFAULT_SERVICE_TYPE = 'image'

glance_group = cfg.OptGroup(
    name='glance', title='Image service', help="""
Options that control how Nova reaches the Image service (Glance), verifies
image signatures, and downloads images.
""")

client_opts = [
    # No default: if the option is unset, Nova uses the service catalog.
    cfg.ListOpt(
        'api_servers',
        deprecated_for_removal=True,
        deprecated_since='21.0.0',
        deprecated_reason="""
The keystoneauth1 adapter options of this group select the endpoint. To spread
requests over several image servers, put a load balancer in front of them.
""",
        help="""
List of image server endpoints.

Nova distributes its requests among them at random. If this option is unset,
Nova uses ``endpoint_override`` of this group, or the endpoint in the service
catalog. Set this option only if you run several image servers without a load
balancer.

Possible values:

* A list of URLs of the form ``scheme://host:port[/path]``, without the API
  version, such as ``http://10.0.1.0:9292`` or
  ``https://images.example.com/image``.
"""),
    cfg.IntOpt(
        'num_retries',
        default=3,
        min=0,
        help="""
Number of retries when a request does not reach the image server.

Nova waits one second between two attempts. If ``api_servers`` lists several
servers, each attempt uses a different one.
"""),
    cfg.BoolOpt(
        'debug',
        default=False,
        help="""
Enable debug messages of glanceclient in Nova's log.
"""),
]

signature_opts = [
    cfg.BoolOpt(
        'verify_glance_signatures',
        default=False,
        help="""
Require signed images and verify their signatures.

Nova verifies the data of each image against the signature in the image
properties ``img_signature``, ``img_signature_hash_method``,
``img_signature_key_type`` and ``img_signature_certificate_uuid``, whether it
downloads the image over HTTP or directly. If the signature is wrong,
incomplete or missing, Nova rejects the image and sets the instance to the
error state. Users can therefore rely on their servers running what was signed.

The hash method must be ``SHA-224``, ``SHA-256``, ``SHA-384`` or ``SHA-512``.
The key type must be ``RSA-PSS``, ``DSA``, ``ECC_SECP384R1`` or
``ECC_SECP521R1``, or one of the older curves, if the cryptography library on
this host still supports it. If a property has an unsupported value, or if the
certificate is missing from the key manager or unreadable, Nova reports an
error before it downloads any data.

Nova discards data that does not match the signature. If the data came directly
from a store, Nova logs a warning and tries the next source. That data must
match the signature as well: a matching hash does not replace the signature.

Related options:

* The ``[key_manager]`` group configures the service that stores the
  certificates.
* :oslo.config:option:`glance.enable_certificate_validation` and
  :oslo.config:option:`glance.default_trusted_certificate_ids` control which
  certificates Nova accepts.
"""),
    cfg.BoolOpt(
        'enable_certificate_validation',
        default=False,
        deprecated_for_removal=True,
        deprecated_since='16.0.0',
        deprecated_reason="""
This option lets deployments migrate to signed images in two steps. In the long
run, Nova must not trust a signature without validating its certificate.
""",
        help="""
Validate the certificate of an image signature.

A valid signature only proves that the owner of the certificate signed the
image. If this option is enabled, the certificate must also be one of the
trusted certificates of the instance, or be issued by one of them. Otherwise
Nova rejects the image and sets the instance to the error state. If this option
is disabled, any user who can store a certificate can sign images.

Every issuer in the certificate chain, up to a self-signed certificate, must be
a trusted certificate and a CA, and every certificate must be within its
validity period. If this option is disabled, Nova does not check validity
periods.

Related options:

* This option has an effect only if
  :oslo.config:option:`glance.verify_glance_signatures` is enabled or
  :oslo.config:option:`glance.default_trusted_certificate_ids` is not empty.
  If an API request names trusted certificates, Nova always validates the
  certificate.
* :oslo.config:option:`glance.default_trusted_certificate_ids` applies to
  instances that are created without trusted certificates of their own.
"""),
    cfg.ListOpt(
        'default_trusted_certificate_ids',
        default=[],
        help="""
Trusted certificates of instances that are created without any.

If Nova verifies signatures and validates certificates, it stores this list
with each new instance. A list in the API request takes precedence. If both
lists are empty and certificate validation is enabled, Nova rejects every
image.

Possible values:

* A list of certificate IDs in the key manager.

Related options:

* This option has an effect only if
  :oslo.config:option:`glance.enable_certificate_validation` is enabled. In
  that case, images must be signed even if
  :oslo.config:option:`glance.verify_glance_signatures` is disabled.
"""),
]

direct_opts = [
    cfg.ListOpt(
        'allowed_direct_url_schemes',
        default=[],
        mutable=True,
        help="""
URL schemes of the image locations that Nova may download from directly.

By default, Nova downloads images over the Image API. If Glance reports a
location with one of these schemes, Nova downloads the image from that store
instead. This can be many times faster and reduces the load on the image
servers. If the direct download fails, Nova falls back to the Image API.

Glance decides who may download an image, for direct downloads as well: before
each direct download, Nova asks Glance, with the token of the user, whether it
would send the data. This requires Glance 23.0.0 (Xena) or newer.

Possible values:

* An empty list: always use the Image API.
* ``rbd``: download images that Glance stores in Ceph RBD from Ceph. The host
  needs the ``rbd`` program, a ``ceph.conf``, and a keyring with read access to
  the pool of the images.

Nova ignores any other scheme, such as the ``file`` of older releases, and
``nova-compute`` logs one warning when it downloads an image.

Related options:

* If Glance hides locations, because neither ``show_image_direct_url`` nor
  ``show_multiple_locations`` is enabled in Glance, Nova requests them with the
  credentials in the ``[service_user]`` group, which is configured as for
  service tokens. By Glance's default policy, the user of these credentials
  needs the roles ``service`` and ``admin``.
* :oslo.config:option:`glance.rbd_user`,
  :oslo.config:option:`glance.rbd_ceph_conf`,
  :oslo.config:option:`glance.rbd_pool`,
  :oslo.config:option:`glance.rbd_connect_timeout` and
  :oslo.config:option:`glance.rbd_stall_timeout` configure the ``rbd`` scheme.
* :oslo.config:option:`glance.verify_direct_download` controls how Nova
  verifies direct downloads.
* If :oslo.config:option:`libvirt.images_type` is ``rbd``, Nova clones images
  in Ceph and does not cache them, so this option is of no use.
"""),
    cfg.BoolOpt(
        'verify_direct_download',
        default=True,
        mutable=True,
        help="""
Verify direct downloads against the hash that Glance recorded.

The data must match the ``os_hash_value`` of the image, or its MD5 ``checksum``
if the image has no such value. Otherwise Nova discards the data and tries the
next source. Nova computes the hash while it downloads the data. This takes one
or two seconds of CPU time per GiB.

Nova uses the algorithm in ``os_hash_algo``, even a weak one such as ``md5`` or
``sha1``: the hash detects damaged data. No algorithm protects against an
attacker who can change what Glance records; only a signature does. If this
host does not support the algorithm, or if the algorithm has no fixed digest
size, as ``shake_256``, Nova logs a warning and uses the ``checksum``. If there
is no ``checksum`` either, Nova rejects the image. If Glance recorded no hash
at all, Nova verifies only the size. If the recorded hash does not match, no
other hash can replace it.

Without a signature or a hash, Nova asks Ceph for the IDs of the image and of
its snapshot before and after the download, and compares them, because ``rbd``
reads the data of a deleted image as zeros. In this case, Nova does not detect
changed data.

This option does not affect downloads over the Image API, which Nova always
verifies. It does not affect signatures either: if Nova verifies a signature,
it does not compute the hash. Nova always verifies the size.

Related options:

* This option has an effect only if
  :oslo.config:option:`glance.allowed_direct_url_schemes` is set.
* :oslo.config:option:`glance.verify_glance_signatures`
"""),
    cfg.IntOpt(
        'direct_download_rate_limit',
        default=0,
        min=0,
        mutable=True,
        help="""
Maximum rate of all direct downloads of this service together, in MiB/s.

The limit keeps downloads from taking the network or the disks away from the
guests. It does not apply to downloads over the Image API.

Possible values:

* 0: no limit.
* A positive number.

Related options:

* This option has an effect only if
  :oslo.config:option:`glance.allowed_direct_url_schemes` is set.
* ``[compute] max_concurrent_disk_ops`` limits the number of images that are
  downloaded at the same time.
"""),
    cfg.BoolOpt(
        'enable_rbd_download',
        default=False,
        mutable=True,
        deprecated_for_removal=True,
        deprecated_since='34.0.0',
        deprecated_reason="""
``allowed_direct_url_schemes = rbd`` has the same effect and replaces this
option.
""",
        help="""
Download images that Glance stores in Ceph RBD directly from Ceph.

Related options:

* :oslo.config:option:`glance.allowed_direct_url_schemes`: this option adds
  ``rbd`` to it.
"""),
    cfg.StrOpt(
        'rbd_user',
        default='',
        help="""
Ceph user for direct downloads.

This user only needs read access to the pool of the images::

    ceph auth get-or-create client.nova-images \\
        mon 'profile rbd' osd 'profile rbd-read-only pool=images'

If Ceph stores the data of the images in a separate pool, such as an
erasure-coded one, the user also needs read access to that pool: ``osd 'profile
rbd-read-only pool=images, profile rbd-read-only pool=images-data'``.

The privsep daemon reads this option when it starts. Restart ``nova-compute``
after you change it.

Possible values:

* The name without ``client.``, such as ``nova-images``. If there are several
  clusters, the name is the same in each of them.
* An empty string: the value of :oslo.config:option:`libvirt.rbd_user`, or, if
  that option is not set either, Ceph's default, ``admin``.

Related options:

* :oslo.config:option:`glance.allowed_direct_url_schemes`
* :oslo.config:option:`glance.rbd_ceph_conf`
"""),
    cfg.ListOpt(
        'rbd_ceph_conf',
        default=[],
        help="""
Configuration files of the Ceph clusters for direct downloads.

A location identifies its cluster by fsid. Nova uses a location only if one of
these files belongs to that cluster. Nova reads the fsid from the file. If the
file contains none, Nova asks the cluster once. If several of the clusters
store an image, Nova downloads it from the first one in this list and falls
back to the others in order.

If only root can change a file and the directories that lead to it, ``rbd`` can
read any keyring. Otherwise ``rbd`` runs as the user of ``nova-compute``, which
must be able to read the file and the keyring. By default, the keyring for
``/etc/ceph/NAME.conf`` is ``/etc/ceph/NAME.client.USER.keyring``.

The privsep daemon reads this option when it starts. Restart ``nova-compute``
after you change it.

Possible values:

* A comma-separated list of paths, one for each cluster, with the nearest
  cluster first.
* An empty list: the value of
  :oslo.config:option:`libvirt.images_rbd_ceph_conf`, or, if that option is
  empty too, ``/etc/ceph/ceph.conf``.

Related options:

* :oslo.config:option:`glance.allowed_direct_url_schemes`
* :oslo.config:option:`glance.rbd_user`
"""),
    cfg.ListOpt(
        'rbd_pool',
        default=[],
        help="""
Ceph pools that Nova may download images from.

Nova does not use locations in other pools. The privsep daemon enforces this as
well, with the value that it reads when it starts. In addition, the name of the
RBD image must be the ID of the Glance image, which is how Glance names RBD
images. Otherwise a location could expose any data that this host can read.

Possible values:

* A comma-separated list of pool names. If Ceph stores the data of the images
  in a separate pool, such as an erasure-coded one, do not list that pool.
* An empty list: any pool that the Ceph user can read.

Related options:

* :oslo.config:option:`glance.allowed_direct_url_schemes`
"""),
    cfg.IntOpt(
        'rbd_connect_timeout',
        default=5,
        help="""
Timeout for connecting to the Ceph cluster, in seconds.

When the timeout expires, Nova tries the next source of the image. If Nova has
to ask a cluster for its fsid and the cluster does not answer, Nova waits at
least one minute before it asks again.

Possible values:

* 1 to 300. Nova uses the nearest of these values instead of any other number,
  and ``nova-compute`` logs one warning at a direct download. Without this
  option, Ceph's programs wait for 300 seconds (``client_mount_timeout``).

Related options:

* :oslo.config:option:`glance.allowed_direct_url_schemes`
* :oslo.config:option:`glance.rbd_stall_timeout`
"""),
    cfg.IntOpt(
        'rbd_stall_timeout',
        default=60,
        help="""
Timeout for receiving further data of an image from Ceph, in seconds.

When the timeout expires, Nova cancels the export and tries the next source of
the image. As long as Ceph sends data, the only limit on a download is one day.
The timeout for the first byte, which includes the connection, is the value of
this option or one second more than
:oslo.config:option:`glance.rbd_connect_timeout`, whichever is longer. If Nova
verifies neither a signature nor a hash, it asks Ceph before and after the
download whether the image still exists; the timeout for the first byte also
applies to each of these requests.

Possible values:

* 1 to 86400, which is one day. Nova uses the nearest of these values instead
  of any other number, and ``nova-compute`` logs one warning at a direct
  download.

Related options:

* :oslo.config:option:`glance.allowed_direct_url_schemes`
* :oslo.config:option:`glance.rbd_connect_timeout`
"""),
]

glance_opts = client_opts + signature_opts + direct_opts

#: Largest values of the timeouts, in seconds. Ceph itself waits no longer for
#: a connection (client_mount_timeout), and no export runs longer than a day.
_LONGEST = {'rbd_connect_timeout': 300, 'rbd_stall_timeout': 24 * 60 * 60}

# Old names of the TLS options that keystoneauth1 now provides.
deprecated_ksa_opts = {
    new: [cfg.DeprecatedOpt(name, group=group)]
    for new, name, group in (
        ('insecure', 'api_insecure', glance_group.name),
        ('cafile', 'ca_file', 'ssl'),
        ('certfile', 'cert_file', 'ssl'),
        ('keyfile', 'key_file', 'ssl'),
    )
}


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_group(glance_group)
    conf.register_opts(glance_opts, group=glance_group)
    # The user's token authenticates the requests, so no auth options.
    confutils.register_ksa_opts(
        conf, glance_group, DEFAULT_SERVICE_TYPE, include_auth=False,
        deprecated_opts=deprecated_ksa_opts)


def ceph_confs(conf: cfg.ConfigOpts) -> list[str]:
    """Return the path to the ceph.conf of each configured cluster."""
    return conf.glance.rbd_ceph_conf or [
        conf.libvirt.images_rbd_ceph_conf or '/etc/ceph/ceph.conf']


def ceph_user(conf: cfg.ConfigOpts) -> str:
    """Return the Ceph client without 'client.', or '' for Ceph's default."""
    return conf.glance.rbd_user or conf.libvirt.rbd_user or ''


def connect_timeout(conf: cfg.ConfigOpts) -> int:
    """Return the time limit for a connection to Ceph, in seconds."""
    return _within_range(conf, 'rbd_connect_timeout')


def stall_timeout(conf: cfg.ConfigOpts) -> int:
    """Return the time limit for further data from Ceph, in seconds."""
    return _within_range(conf, 'rbd_stall_timeout')


def timeouts_out_of_range(conf: cfg.ConfigOpts) -> list[str]:
    """Describe each timeout that Nova replaces, with the value it uses.

    :raises oslo_config.cfg.ConfigFileValueError: a value is not a number
    """
    return [
        '[glance] %s is %d, but must be 1 to %d: Nova uses %d' % (
            name, conf.glance[name], longest, _within_range(conf, name))
        for name, longest in _LONGEST.items()
        if conf.glance[name] != _within_range(conf, name)]


def _within_range(conf: cfg.ConfigOpts, name: str) -> int:
    return max(1, min(conf.glance[name], _LONGEST[name]))


def ceph_cluster(path: str) -> str:
    """Return the cluster name that Ceph derives from the path of ceph.conf."""
    name, suffix, _rest = os.path.basename(path).partition('.conf')
    return name if suffix else 'ceph'


def list_opts() -> dict[cfg.OptGroup, list[cfg.Opt]]:
    adapter_opts = confutils.get_ksa_adapter_opts(
        DEFAULT_SERVICE_TYPE, deprecated_opts=deprecated_ksa_opts)
    session_opts = ks_loading.get_session_conf_options()
    return {glance_group: [*glance_opts, *session_opts, *adapter_opts]}

# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""The ``[glance]`` options: how to reach images, and how to fetch them."""

import os

from keystoneauth1 import loading as ks_loading
from oslo_config import cfg

from nova.conf import utils as confutils


DEFAULT_SERVICE_TYPE = 'image'

glance_group = cfg.OptGroup(
    name='glance', title='Image service', help="""
How Nova finds the Image service (Glance), and how it fetches images from it.
""")

client_opts = [
    # No default: its absence is what asks for the service catalog.
    cfg.ListOpt(
        'api_servers',
        deprecated_for_removal=True,
        deprecated_since='21.0.0',
        deprecated_reason="""
The endpoint is found by the usual keystoneauth1 adapter options of this group.
To spread requests over several image servers, put a load balancer in front of
them.
""",
        help="""
Endpoints of the image servers.

Requests are spread over them at random. Leave this unset to take the endpoint
from the service catalog, or from ``endpoint_override`` in this group; that is
the better way unless there are several image servers and no load balancer can
be had.

Possible values:

* A list of URLs ``scheme://host:port[/path]``, without the API version, such
  as ``http://10.0.1.0:9292`` or ``https://images.example.com/image``.
"""),
    cfg.IntOpt(
        'num_retries',
        default=3,
        min=0,
        help="""
How often to repeat a request that could not reach the image server.

Between two attempts is one second. With several ``api_servers`` each attempt
goes to another one.

Possible values:

* 0 for no second attempt, or the number of further attempts.
"""),
    cfg.BoolOpt(
        'debug',
        default=False,
        help="""
Have glanceclient write debug messages to Nova's log.
"""),
]

signature_opts = [
    cfg.BoolOpt(
        'verify_glance_signatures',
        default=False,
        help="""
Boot from signed images only, and check their signatures.

While an image is fetched, by whatever way, its data is checked against the
signature among the image's properties (``img_signature``,
``img_signature_hash_method``, ``img_signature_key_type``,
``img_signature_certificate_uuid``). If the signature is wrong, incomplete or
missing, the image is not used and the instance goes into the error state. So
users know that their servers run what was signed.

The hash method is one of ``SHA-224``, ``SHA-256``, ``SHA-384`` and
``SHA-512``. The key type is one of ``RSA-PSS``, ``DSA``, ``ECC_SECP384R1`` and
``ECC_SECP521R1``, and of the other curves that this host's cryptography
library may still have. Anything else is an error that names it, before any
data is fetched, and so is a certificate that the key manager does not have or
that cannot be read.

Data that does not match the signature is thrown away. If it came directly from
a store, there is a warning and the next source is tried, which has to match
the signature, too: the recorded hash never takes its place.

Related options:

* The ``[key_manager]`` group says where the certificates are kept.
* :oslo.config:option:`glance.enable_certificate_validation` and
  :oslo.config:option:`glance.default_trusted_certificate_ids` decide which
  certificates are good enough.
"""),
    cfg.BoolOpt(
        'enable_certificate_validation',
        default=False,
        deprecated_for_removal=True,
        deprecated_since='16.0.0',
        deprecated_reason="""
This option exists to let deployments with signed images move in two steps. In
the end a signature is never to be trusted without looking at its certificate.
""",
        help="""
Check the certificate of an image's signature, too.

A valid signature only shows that the owner of the certificate signed the
image. With this option the certificate itself must be one that the instance
trusts, or be issued by one; else the image is not used and the instance goes
into the error state. Without it anybody who can store a certificate can sign.

The whole chain, up to a certificate that is its own issuer, must be among the
trusted ones, each of them must be a CA, and all must be valid at this time.
Without this option nobody looks at the times of a certificate.

Related options:

* It has an effect with
  :oslo.config:option:`glance.verify_glance_signatures`, or if
  :oslo.config:option:`glance.default_trusted_certificate_ids` is not empty.
  Certificates that the API request names are checked without it, too.
* :oslo.config:option:`glance.default_trusted_certificate_ids` is for
  instances created without trusted certificates of their own.
"""),
    cfg.ListOpt(
        'default_trusted_certificate_ids',
        default=[],
        help="""
Certificates trusted by instances whose creator did not name any.

They are recorded with the instance when it is created, if signatures and
certificates are checked; a list given in the API request takes their place. If
both lists are empty while certificates are checked, no image passes.

Possible values:

* A list of certificate ids, as the key manager knows them.

Related options:

* They are used only with
  :oslo.config:option:`glance.enable_certificate_validation`. Then an image
  must be signed even if :oslo.config:option:`glance.verify_glance_signatures`
  is off.
"""),
]

direct_opts = [
    cfg.ListOpt(
        'allowed_direct_url_schemes',
        default=[],
        help="""
Schemes of image locations from which data is fetched directly.

When this host caches an image, it usually fetches the data over the Image API.
If Glance says where its store holds the data, by a location with one of these
schemes, the host asks that store instead. This can be many times faster and
takes load off the image servers. If the direct download fails, Nova falls back
to the Image API.

Glance decides who may download an image, also directly: before each direct
download Nova asks it, with the user's token, whether it would send the data.
This requires Glance 23.0.0 (Xena) or newer.

The host's own rights in the store are used, so give it no more than it needs.

Possible values:

* An empty list: always use the Image API.
* ``rbd``: images that Glance keeps in Ceph RBD. The host needs the ``rbd``
  program, a ceph.conf and a keyring with read access to the pool of the
  images.

There is no other scheme; any other word stops the service with an error.

Related options:

* If an image does not show where it is, since neither
  ``show_image_direct_url`` nor ``show_multiple_locations`` is set in Glance,
  Nova asks Glance for it, with the credentials in the group
  ``[service_user]``, which is set up as for service tokens. Their user needs
  the roles ``service`` and ``admin`` by Glance's default policy.
* :oslo.config:option:`glance.rbd_user`,
  :oslo.config:option:`glance.rbd_ceph_conf`,
  :oslo.config:option:`glance.rbd_pool`,
  :oslo.config:option:`glance.rbd_connect_timeout` and
  :oslo.config:option:`glance.rbd_stall_timeout` are about ``rbd``.
* :oslo.config:option:`glance.verify_direct_download` is about what is checked.
* With :oslo.config:option:`libvirt.images_type` set to ``rbd`` instances are
  cloned in Ceph, no image is cached, and this option is of no use.
"""),
    cfg.BoolOpt(
        'verify_direct_download',
        default=True,
        help="""
Check directly fetched data against the hash that Glance recorded.

The data must match the image's ``os_hash_value``, or its md5 ``checksum`` if
there is no such value, else it is thrown away and the next source is tried.
The hash is computed while the data arrives, and takes a second or two of one
CPU per GiB.

The algorithm is the one in ``os_hash_algo``, weak ones (``md5``, ``sha1``)
included: the hash is there to find data that was damaged, and against somebody
who can change what Glance records no algorithm helps, only a signature does.
If this host does not have the algorithm, or it has no fixed size as
``shake_256`` has none, the ``checksum`` is used, with a warning. If there is
no ``checksum`` then, the image is not used. Nothing is checked but the size
where Glance has recorded no hash at all. A hash that was recorded and does not
match is never made up for by another one.

Without a signature or a hash, Nova asks Ceph before and after the download for
the ids of the image and of its snapshot, and compares them, because ``rbd``
reads the data of a deleted image as zeros. Nova then does not detect data that
was changed.

It has no effect on data that comes over the Image API, which is always
checked, nor on signatures: an image whose signature is checked needs no hash,
and its hash is not computed. The size is always checked.

Related options:

* It has an effect only with
  :oslo.config:option:`glance.allowed_direct_url_schemes`.
* :oslo.config:option:`glance.verify_glance_signatures`
"""),
    cfg.BoolOpt(
        'enable_rbd_download',
        default=False,
        deprecated_for_removal=True,
        deprecated_since='34.0.0',
        deprecated_reason="""
It says the same as ``allowed_direct_url_schemes = rbd``. Set that instead.
""",
        help="""
Fetch images directly from Ceph RBD where Glance keeps them there.

If this is true, ``rbd`` counts as one of
:oslo.config:option:`glance.allowed_direct_url_schemes`, listed there or not.

Related options:

* :oslo.config:option:`glance.allowed_direct_url_schemes`
"""),
    cfg.StrOpt(
        'rbd_user',
        default='',
        help="""
The Ceph user that fetches images.

It needs to read the pool of the images, and nothing else::

    ceph auth get-or-create client.nova-images \\
        mon 'profile rbd' osd 'profile rbd-read-only pool=images'

If the images have their data in another pool, such as an erasure-coded one, it
needs to read that pool, too: ``osd 'profile rbd-read-only pool=images, profile
rbd-read-only pool=images-data'``.

The privileged side uses the value that is in ``nova.conf`` when the privsep
daemon starts. Restart ``nova-compute`` after a change.

Possible values:

* The name without ``client.``, such as ``nova-images``. With several clusters
  it is the same in each of them.
* Empty: the value of :oslo.config:option:`libvirt.rbd_user`, or if that is
  not set either, Ceph's own default, ``admin``.

Related options:

* It has an effect only if
  :oslo.config:option:`glance.allowed_direct_url_schemes` has ``rbd``.
* :oslo.config:option:`glance.rbd_ceph_conf`
"""),
    cfg.ListOpt(
        'rbd_ceph_conf',
        default=[],
        help="""
Configuration files of the Ceph clusters that images are fetched from.

A location names its cluster by fsid. Nova uses it only if one of these files
is of that cluster. Nova reads the fsid from the file, or asks the cluster once
if the file has none. If an image is in several of the clusters, Nova fetches
it from the one that comes first here; if that fails, from the next.

If only root can change a file and the directories on the way to it, ``rbd``
can read any keyring. Otherwise ``rbd`` runs as Nova's user, who must be able
to read the file and the keyring. By default, the keyring of
``/etc/ceph/NAME.conf`` is ``/etc/ceph/NAME.client.USER.keyring``.

The privileged side uses the value that is in ``nova.conf`` when the privsep
daemon starts. Restart ``nova-compute`` after a change.

Possible values:

* Paths of files, one for each cluster, separated by commas, the nearest
  cluster first.
* Empty: the value of :oslo.config:option:`libvirt.images_rbd_ceph_conf`, or if
  that is empty too, ``/etc/ceph/ceph.conf``.

Related options:

* It has an effect only if
  :oslo.config:option:`glance.allowed_direct_url_schemes` has ``rbd``.
* :oslo.config:option:`glance.rbd_user`
"""),
    cfg.ListOpt(
        'rbd_pool',
        default=[],
        help="""
Ceph pools that images may be fetched from.

Nova does not use a location in any other pool, and neither does the privileged
side, which takes the value from ``nova.conf`` when the privsep daemon starts.
In addition, the RBD image must have the id of the Glance image as its name, as
Glance itself names it. Otherwise a location could give away any data
that this host can read.

Possible values:

* Names of pools, separated by commas. If images have their data in another
  pool, such as an erasure-coded one, that pool does not belong here.
* Empty: any pool that the Ceph user can read.

Related options:

* It has an effect only if
  :oslo.config:option:`glance.allowed_direct_url_schemes` has ``rbd``.
"""),
    cfg.IntOpt(
        'rbd_connect_timeout',
        default=5,
        min=1,
        help="""
How many seconds to wait for a connection to the Ceph cluster.

If there is none by then, the next source of the image is tried. If a
``ceph.conf`` has no fsid and its cluster does not answer, Nova asks it again
after a minute at the earliest.

Related options:

* It has an effect only if
  :oslo.config:option:`glance.allowed_direct_url_schemes` has ``rbd``.
* :oslo.config:option:`glance.rbd_stall_timeout`
"""),
    cfg.IntOpt(
        'rbd_stall_timeout',
        default=60,
        min=1,
        help="""
How many seconds Ceph may go without sending a byte of an image.

After that, Nova stops the attempt and tries the next source of the image. As
long as Ceph sends data, only a limit of one day ends a download. The time to
the first byte, connection included, has this limit too, or one second more
than :oslo.config:option:`glance.rbd_connect_timeout` if that is longer. If
Nova verifies neither a signature nor a hash, it asks Ceph before and after the
download whether the image still exists, and each of these requests has the
limit of a first byte.

Related options:

* It has an effect only if
  :oslo.config:option:`glance.allowed_direct_url_schemes` has ``rbd``.
* :oslo.config:option:`glance.rbd_connect_timeout`
"""),
]

glance_opts = client_opts + signature_opts + direct_opts

# Where the TLS options of the client were before they came from keystoneauth1.
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
    # Requests are authenticated by the user's token: no options for that.
    confutils.register_ksa_opts(
        conf, glance_group, DEFAULT_SERVICE_TYPE, include_auth=False,
        deprecated_opts=deprecated_ksa_opts)


def ceph_confs(conf: cfg.ConfigOpts) -> list[str]:
    """Return the path of the ceph.conf of each cluster of this host."""
    return conf.glance.rbd_ceph_conf or [
        conf.libvirt.images_rbd_ceph_conf or '/etc/ceph/ceph.conf']


def ceph_user(conf: cfg.ConfigOpts) -> str:
    """Return the Ceph client, without 'client.'; '' for Ceph's default."""
    return conf.glance.rbd_user or conf.libvirt.rbd_user or ''


def ceph_cluster(path: str) -> str:
    """Return the name of a cluster, as Ceph takes it from its ceph.conf's."""
    name, suffix, _rest = os.path.basename(path).partition('.conf')
    return name if suffix else 'ceph'


def list_opts() -> dict[cfg.OptGroup, list[cfg.Opt]]:
    adapter_opts = confutils.get_ksa_adapter_opts(
        DEFAULT_SERVICE_TYPE, deprecated_opts=deprecated_ksa_opts)
    session_opts = ks_loading.get_session_conf_options()
    return {glance_group: [*glance_opts, *session_opts, *adapter_opts]}

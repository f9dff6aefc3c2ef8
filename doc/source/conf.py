# SPDX-License-Identifier: Apache-2.0

import importlib.metadata

from docutils import nodes
from sphinx import addnodes
from sphinx import application
from sphinx import environment

extensions = ['openstackdocstheme', 'oslo_config.sphinxext']

project = 'Nova with direct image downloads'
copyright = 'OpenStack contributors'
release = version = importlib.metadata.version('nova')

html_theme = 'openstackdocs'
openstackdocs_repo_name = 'openstack/nova'
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_bug_project = 'nova'
pygments_style = 'native'

man_pages = [
    ('cli/nova-image-fetch', 'nova-image-fetch',
     'download an image as nova-compute does', ['OpenStack'], 1),
]


def _link_to_nova(
    app: application.Sphinx, env: environment.BuildEnvironment,
    node: addnodes.pending_xref, content: nodes.Element,
) -> nodes.reference | None:
    """Let Nova's options refer to pages of Nova's own documents."""
    if node['reftype'] != 'doc' or node['refdoc'] != 'configuration':
        return None
    url = f'https://docs.openstack.org/nova/latest{node["reftarget"]}.html'
    return nodes.reference('', '', content, refuri=url, internal=False)


def setup(app: application.Sphinx) -> None:
    app.connect('missing-reference', _link_to_nova)

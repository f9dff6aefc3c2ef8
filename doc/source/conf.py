# SPDX-License-Identifier: Apache-2.0

import importlib.metadata

extensions = ['openstackdocstheme']

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
     'fetch an image as nova-compute does', ['OpenStack'], 1),
]

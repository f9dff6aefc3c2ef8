# SPDX-License-Identifier: Apache-2.0

extensions = ['openstackdocstheme', 'reno.sphinxext']

project = 'Nova with direct image downloads: release notes'
copyright = 'OpenStack contributors'

html_theme = 'openstackdocs'
openstackdocs_repo_name = 'openstack/nova'
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_bug_project = 'nova'

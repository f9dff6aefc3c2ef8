# SPDX-License-Identifier: Apache-2.0

"""The locations of an image, and their order."""

from collections.abc import Iterable
from collections.abc import Mapping
import logging
import typing as ty
from unittest import mock

import fixtures
from glanceclient import exc as glance_exc
from keystoneauth1 import exceptions as ks_exc
from keystoneauth1.identity import v3
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context as nova_context
from nova import exception
from nova.image import compat
from nova.image import locations
from nova import test

URLS = ['rbd://a/p/i/s', 'rbd://b/p/i/s']
ANSWER = [{'url': url, 'metadata': {'store': 'x'}} for url in URLS]


class FakeClient:
    """Answers as Glance does, or raises what it is given."""

    def __init__(self, *outcomes: ty.Any) -> None:
        self._outcomes = list(outcomes)
        self.contexts: list[nova_context.RequestContext] = []

    def call(self, context: nova_context.RequestContext, version: int,
             method: str, *, args: Iterable[ty.Any]) -> ty.Any:
        assert (version, method, args) == (
            2, 'get_image_locations', (uuids.image,))
        self.contexts.append(context)
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class TestShown(test.NoDBTestCase):
    def test_each_one_once_and_in_order(self) -> None:
        for urls in ([], ['rbd://b'], ['rbd://b', 'rbd://a', 'rbd://b']):
            image = {'locations': [{'url': url} for url in urls]}
            self.assertEqual(
                sorted(set(urls), reverse=True), locations.shown(image))

    def test_not_asked_for(self) -> None:
        self.assertEqual([], locations.shown({}))


class TestNearestFirst(test.NoDBTestCase):
    def ranked(self, urls: Iterable[str],
               **ranks: Mapping[str, int | None]) -> list[str]:
        return locations.nearest_first(
            urls, {scheme: known.__getitem__
                   for scheme, known in ranks.items()})

    def test_order(self) -> None:
        self.assertEqual(
            ['m:near', 'm:far'],
            self.ranked(['m:far', 'm:near'], m={'m:far': 1, 'm:near': 0}))

    def test_equally_near_ones_remain_in_order(self) -> None:
        self.assertEqual(
            ['m:b', 'x:c', 'm:a', 'm:d'],
            self.ranked(['m:d', 'm:b', 'x:c', 'm:a'],
                        m={'m:a': 0, 'm:b': 0, 'm:d': 1}))

    def test_of_no_use(self) -> None:
        self.assertEqual(
            ['m:b'], self.ranked(['m:a', 'm:b'], m={'m:a': None, 'm:b': 3}))
        self.assertEqual([], self.ranked(['m:a'], m={'m:a': None}))

    def test_no_ranks(self) -> None:
        self.assertEqual(['m:b', 'm:a'], self.ranked(['m:b', 'm:a']))


class AskTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        locations._warn_once.cache_clear()
        self.addCleanup(locations._warn_once.cache_clear)
        self.context = nova_context.RequestContext(
            uuids.user, uuids.project, auth_token='token',
            global_request_id='req-' + uuids.request)
        self.own = nova_context.RequestContext(
            uuids.nova, uuids.service, user_auth_plugin=mock.sentinel.auth,
            overwrite=False)
        self.login = self.useFixture(fixtures.MockPatchObject(
            compat, 'service_context',
            return_value=self.own)).mock

    def ask(self, *outcomes: ty.Any) -> list[str]:
        self.client = FakeClient(*outcomes)
        return locations.ask(
            ty.cast(ty.Any, self.client), self.context, uuids.image)

    def warned(self, *outcomes: ty.Any) -> str:
        """Ask in vain; return the one warning."""
        with self.assertLogs('nova.image.locations', 'WARNING') as logs:
            self.assertEqual([], self.ask(*outcomes))
        [record] = logs.records
        self.assertEqual(logging.WARNING, record.levelno)
        self.assertIsNone(record.exc_info)
        return record.getMessage()

    def test_asked_as_nova(self) -> None:
        with self.assertNoLogs('nova.image.locations', 'INFO'):
            self.assertEqual(URLS, self.ask(ANSWER))
        self.assertEqual([self.own], self.client.contexts)
        self.assertEqual('req-' + uuids.request, self.own.global_id)

    def test_read_raises(self) -> None:
        for error, of_all in ((glance_exc.HTTPNotImplemented(), True),
                              (glance_exc.HTTPForbidden(), False),
                              (RuntimeError(), False)):
            with self.assertNoLogs('nova.image.locations', 'INFO'):
                raised = self.assertRaises(
                    locations.LocationsUnavailable, locations.read,
                    ty.cast(ty.Any, FakeClient(error)), self.context,
                    uuids.image)
            self.assertIs(of_all, raised.for_all_images)

    def test_the_same_one_twice(self) -> None:
        self.assertEqual(URLS, self.ask(ANSWER + ANSWER))

    def test_nowhere(self) -> None:
        with self.assertNoLogs('nova.image.locations', 'INFO'):
            self.assertEqual([], self.ask([]))

    def test_users_request_where_nova_is_refused(self) -> None:
        self.flags(send_service_user_token=True, group='service_user')
        for refusal in (glance_exc.HTTPForbidden(), glance_exc.HTTPNotFound()):
            with self.assertNoLogs('nova.image.locations', 'INFO'):
                self.assertEqual(URLS, self.ask(refusal, ANSWER))
            self.assertEqual([self.own, self.context], self.client.contexts)

    def test_refused_without_a_service_token_to_send(self) -> None:
        for refusal in (glance_exc.HTTPForbidden('gone'),
                        glance_exc.HTTPNotFound('gone')):
            warning = self.warned(refusal)
            self.assertEqual([self.own], self.client.contexts)
            for part in (uuids.image, '[service_user]',
                         'roles service and admin', 'gone'):
                self.assertIn(part, warning)

    def test_refused_twice(self) -> None:
        self.flags(send_service_user_token=True, group='service_user')
        warning = self.warned(glance_exc.HTTPNotFound('first'),
                              glance_exc.HTTPForbidden('second'))
        self.assertIn('first', warning)
        self.assertNotIn('second', warning)

    def test_users_request_fails_otherwise(self) -> None:
        self.flags(send_service_user_token=True, group='service_user')
        self.assertIn('Glance is down', self.warned(
            glance_exc.HTTPNotFound(),
            exception.GlanceConnectionFailed('Glance is down')))

    def test_no_credentials(self) -> None:
        self.login.side_effect = exception.InvalidConfiguration('x')
        self.assertRegex(
            self.warned(),
            r'\[service_user\] in nova.conf contains no credentials')
        self.assertEqual([], self.client.contexts)
        with self.assertNoLogs('nova.image.locations', 'INFO'):
            self.assertEqual([], self.ask())

    def test_no_login(self) -> None:
        for error in (ks_exc.Unauthorized('no such user'),
                      ks_exc.ConnectFailure('no such user'),
                      RuntimeError('no such user')):
            self.login.side_effect = error
            # Not just the first time: it may be over soon.
            self.assertIn('no such user', self.warned())
            self.assertEqual([], self.client.contexts)

    def test_error_without_a_message(self) -> None:
        self.login.side_effect = RuntimeError()
        self.assertIn('RuntimeError', self.warned())
        self.login.side_effect = None
        self.assertIn('KeyError', self.warned(KeyError()))

    def test_old_glance(self) -> None:
        self.assertIn('2.17', self.warned(glance_exc.HTTPNotImplemented()))
        with self.assertNoLogs('nova.image.locations', 'INFO'):
            self.assertEqual([], self.ask(glance_exc.HTTPNotImplemented()))

    def test_glance_fails(self) -> None:
        for error in (exception.GlanceConnectionFailed('x'),
                      glance_exc.HTTPInternalServerError('x'),
                      glance_exc.HTTPUnauthorized('x')):
            self.assertIn(
                f'did not return the locations of image {uuids.image}',
                self.warned(error))

    def test_answer_makes_no_sense(self) -> None:
        answers: list[ty.Any] = [
            None, [None], [{}], [{'metadata': {}}], 'rbd://', 1]
        for answer in answers:
            self.warned(answer)


class TestCredentials(test.NoDBTestCase):
    """With the options of [service_user], as Nova reads them."""

    def ask(self) -> list[str]:
        locations._warn_once.cache_clear()
        self.addCleanup(locations._warn_once.cache_clear)
        return locations.ask(
            ty.cast(ty.Any, FakeClient(ANSWER)),
            nova_context.RequestContext(uuids.user, uuids.project),
            uuids.image)

    def test_none(self) -> None:
        with self.assertLogs('nova.image.locations', 'WARNING') as logs:
            self.assertEqual([], self.ask())
        self.assertIn('contains no credentials', logs.output[0])

    def load(self, **outcome: ty.Any) -> None:
        # The real one leaves options behind that are required then.
        self.useFixture(fixtures.MockPatch(
            'keystoneauth1.loading.load_auth_from_conf_options', **outcome))

    def test_incomplete(self) -> None:
        self.load(side_effect=ks_exc.MissingRequiredOptions(
            [mock.Mock(dest='auth_url')]))
        with self.assertLogs('nova.image.locations', 'WARNING') as logs:
            self.assertEqual([], self.ask())
        self.assertIn('auth_url', logs.output[0])

    def test_whether_they_are_sent_along_with_users_is_no_matter(self) -> None:
        self.load(return_value=mock.create_autospec(
            v3.Password, instance=True))
        for sent in (False, True):
            self.flags(send_service_user_token=sent, group='service_user')
            self.assertEqual(URLS, self.ask())

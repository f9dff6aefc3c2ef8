# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
import functools
import traceback

import ddt
from glanceclient import exc

from nova import exception
from nova.image import errors
from nova import test


@ddt.ddt
class TestTranslation(test.NoDBTestCase):
    @ddt.data(
        (exc.HTTPForbidden, exception.ImageNotAuthorized),
        (exc.HTTPUnauthorized, exception.ImageNotAuthorized),
        (exc.HTTPNotFound, exception.ImageNotFound),
        (exc.HTTPBadRequest, exception.ImageBadRequest),
        (exc.HTTPOverLimit, exception.ImageQuotaExceeded),
    )
    @ddt.unpack
    def test_for_image(self, met: type[Exception],
                       raised: type[Exception]) -> None:
        translated = errors.for_image('cafe', met())
        self.assertIs(raised, type(translated))
        self.assertIn('cafe', str(translated))

    @ddt.data(
        (exc.HTTPForbidden, exception.Forbidden),
        (exc.HTTPUnauthorized, exception.Forbidden),
        (exc.HTTPNotFound, exception.NotFound),
        (exc.HTTPBadRequest, exception.Invalid),
    )
    @ddt.unpack
    def test_for_request(self, met: type[exc.HTTPException],
                         raised: type[Exception]) -> None:
        translated = errors.for_request(met(details='why not'))
        self.assertIs(raised, type(translated))
        self.assertIn('why not', str(translated))

    @ddt.data(
        (exc.HTTPNotFound, exception.ImageNotFound),
        (exc.HTTPForbidden, exception.ImageNotAuthorized),
        (exc.HTTPConflict, exception.ImageDeleteConflict),
    )
    @ddt.unpack
    def test_for_delete(self, met: type[Exception],
                        raised: type[Exception]) -> None:
        self.assertIs(raised, type(errors.for_delete('cafe', met())))

    @ddt.data(
        (exc.HTTPNotFound, exception.ImageNotFound),
        (exc.HTTPForbidden, exception.ImageNotAuthorized),
        (exc.HTTPConflict, exception.ImageImportImpossible),
        (exc.HTTPBadRequest, exception.ImageBadRequest),
    )
    @ddt.unpack
    def test_for_import(self, met: type[Exception],
                        raised: type[Exception]) -> None:
        self.assertIs(raised, type(errors.for_import('cafe', met())))

    @ddt.data(
        (functools.partial(errors.for_image, 'cafe'), exc.HTTPConflict),
        (errors.for_request, exc.HTTPOverLimit),
        (functools.partial(errors.for_delete, 'cafe'), exc.HTTPUnauthorized),
        (functools.partial(errors.for_delete, 'cafe'), exc.HTTPBadRequest),
        (functools.partial(errors.for_import, 'cafe'), exc.HTTPUnauthorized),
        (errors.for_request, OSError),
    )
    @ddt.unpack
    def test_others_stay_as_they_are(
            self, translate: Callable[[BaseException], BaseException],
            met: type[Exception]) -> None:
        error = met()
        self.assertIs(error, translate(error))


class TestReraiseAs(test.NoDBTestCase):
    @staticmethod
    def _reraise(error: Exception,
                 translate: Callable[[BaseException], BaseException]) -> None:
        try:
            raise error
        except Exception:
            errors.reraise_as(translate)

    def test_the_original_is_the_cause(self) -> None:
        original = exc.HTTPNotFound(details='no such thing')
        raised = self.assertRaises(
            exception.NotFound, self._reraise, original, errors.for_request)
        self.assertIs(original, raised.__cause__)

    def test_an_error_without_translation_is_raised_itself(self) -> None:
        original = OSError('gone')
        raised = self.assertRaises(
            OSError, self._reraise, original, errors.for_request)
        self.assertIs(original, raised)
        self.assertIsNone(raised.__cause__)
        frames = [frame.name for frame in
                  traceback.extract_tb(raised.__traceback__)]
        self.assertEqual(2, frames.count('_reraise'))

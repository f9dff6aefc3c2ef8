# SPDX-License-Identifier: Apache-2.0

"""What the HTTP errors of the Image service mean to Nova.

Each function takes the image's id, where there is one, and the error, and
returns the exception to raise in its place: the error itself when Nova has no
name of its own for it.
"""

from collections.abc import Callable
import sys
import typing as ty

from glanceclient import exc

from nova import exception


def for_image(image_id: str, error: BaseException) -> BaseException:
    """Translate an error met while reading or writing one image."""
    match error:
        case exc.HTTPForbidden() | exc.HTTPUnauthorized():
            return exception.ImageNotAuthorized(image_id=image_id)
        case exc.HTTPNotFound():
            return exception.ImageNotFound(image_id=image_id)
        case exc.HTTPBadRequest():
            return exception.ImageBadRequest(
                image_id=image_id, response=str(error))
        case exc.HTTPOverLimit():
            return exception.ImageQuotaExceeded(image_id=image_id)
        case _:
            return error


def for_request(error: BaseException) -> BaseException:
    """Translate an error of a request that is not about one known image."""
    match error:
        case exc.HTTPForbidden() | exc.HTTPUnauthorized():
            return exception.Forbidden(str(error))
        case exc.HTTPNotFound():
            return exception.NotFound(str(error))
        case exc.HTTPBadRequest():
            return exception.Invalid(str(error))
        case _:
            return error


def for_delete(image_id: str, error: BaseException) -> BaseException:
    """Translate an error met while deleting an image."""
    match error:
        case exc.HTTPConflict():
            return exception.ImageDeleteConflict(reason=str(error))
        case exc.HTTPNotFound() | exc.HTTPForbidden():
            return for_image(image_id, error)
        case _:
            return error


def for_import(image_id: str, error: BaseException) -> BaseException:
    """Translate an error met while copying an image to another store."""
    match error:
        case exc.HTTPConflict():
            return exception.ImageImportImpossible(
                image_id=image_id, reason=str(error))
        case exc.HTTPNotFound() | exc.HTTPForbidden() | exc.HTTPBadRequest():
            return for_image(image_id, error)
        case _:
            return error


def reraise_as(
    translate: Callable[[BaseException], BaseException],
) -> ty.NoReturn:
    """Raise what ``translate`` makes of the exception being handled.

    To be called in an ``except`` block only. The original stays visible as
    the cause of the new exception.
    """
    error = ty.cast(BaseException, sys.exception())
    translated = translate(error)
    if translated is error:
        raise error
    raise translated from error

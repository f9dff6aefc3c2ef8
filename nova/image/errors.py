# Copyright 2010 OpenStack Foundation
# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""What the HTTP errors of the Image service mean to Nova.

Each function takes the image's id, where there is one, and the error, and
returns the exception to raise in its place: the error itself when Nova has no
name of its own for it.
"""

from collections.abc import Callable
from http import HTTPStatus
import sys
import typing as ty

from glanceclient import exc

from nova import exception


def code(error: BaseException) -> ty.Any:
    """Return the status of an HTTP error, or None of any other one.

    glanceclient has two classes for most, and it differs between releases of
    Nova which one its tests use.
    """
    return error.code if isinstance(error, exc.HTTPException) else None


def for_image(image_id: str, error: BaseException) -> BaseException:
    """Translate an error met while reading or writing one image."""
    match code(error):
        case HTTPStatus.FORBIDDEN | HTTPStatus.UNAUTHORIZED:
            return exception.ImageNotAuthorized(image_id=image_id)
        case HTTPStatus.NOT_FOUND:
            return exception.ImageNotFound(image_id=image_id)
        case HTTPStatus.BAD_REQUEST:
            return exception.ImageBadRequest(
                image_id=image_id, response=str(error))
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return exception.ImageQuotaExceeded(image_id=image_id)
        case _:
            return error


def for_request(error: BaseException) -> BaseException:
    """Translate an error of a request that is not about one known image."""
    match code(error):
        case HTTPStatus.FORBIDDEN | HTTPStatus.UNAUTHORIZED:
            return exception.Forbidden(str(error))
        case HTTPStatus.NOT_FOUND:
            return exception.NotFound(str(error))
        case HTTPStatus.BAD_REQUEST:
            return exception.Invalid(str(error))
        case _:
            return error


def for_delete(image_id: str, error: BaseException) -> BaseException:
    """Translate an error met while deleting an image."""
    match code(error):
        case HTTPStatus.CONFLICT:
            return exception.ImageDeleteConflict(reason=str(error))
        case HTTPStatus.NOT_FOUND | HTTPStatus.FORBIDDEN:
            return for_image(image_id, error)
        case _:
            return error


def for_import(image_id: str, error: BaseException) -> BaseException:
    """Translate an error met while copying an image to another store."""
    match code(error):
        case HTTPStatus.CONFLICT:
            return exception.ImageImportImpossible(
                image_id=image_id, reason=str(error))
        case (HTTPStatus.NOT_FOUND | HTTPStatus.FORBIDDEN |
              HTTPStatus.BAD_REQUEST):
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

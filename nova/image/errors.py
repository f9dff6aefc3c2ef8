# Copyright 2010 OpenStack Foundation
# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""Translates the HTTP errors of Glance to Nova's exceptions.

Each function takes the error, and the image's ID if there is one. It returns
the exception to raise in place of the error, which is the error itself if
Nova has no exception for it.
"""

from collections.abc import Callable
from http import HTTPStatus
import sys
import typing as ty

from cryptography import exceptions as crypto_exceptions
from glanceclient import exc

from nova import exception
from nova.i18n import _


def code(error: BaseException) -> ty.Any:
    """Return the status of an HTTP error, or None for any other error.

    glanceclient has two classes for most statuses, and the tests of different
    releases of Nova use different ones.
    """
    return error.code if isinstance(error, exc.HTTPException) else None


def describe(error: Exception) -> str:
    """Return the reason of an error, for people."""
    if isinstance(error, crypto_exceptions.InvalidSignature):
        # Its own message is empty or not helpful.
        return _('the signature does not match the data')
    return str(error) or type(error).__name__


def for_image(image_id: str, error: BaseException) -> BaseException:
    """Translate an error of reading or writing an image."""
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
    """Translate an error of a request without an image ID."""
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
    """Translate an error of deleting an image."""
    match code(error):
        case HTTPStatus.CONFLICT:
            return exception.ImageDeleteConflict(reason=str(error))
        case HTTPStatus.NOT_FOUND | HTTPStatus.FORBIDDEN:
            return for_image(image_id, error)
        case _:
            return error


def for_import(image_id: str, error: BaseException) -> BaseException:
    """Translate an error of copying an image to another store."""
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
        translate: Callable[[BaseException], BaseException]) -> ty.NoReturn:
    """Raise the translation of the exception that is being handled.

    Call this in an ``except`` block. The original exception is the cause of
    the new one.
    """
    error = ty.cast(BaseException, sys.exception())
    translated = translate(error)
    if translated is error:
        raise error
    raise translated from error

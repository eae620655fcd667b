"""A small HTTP service beside a hosted model: each request's video is made with the erasures that are meant for it, and
with no others, out of any number on disk.
"""

from unreel.service.audit import Audit
from unreel.service.http import Server, serve
from unreel.service.making import Service
from unreel.service.policy import Policy
from unreel.service.refusals import BusyError, RefusedError
from unreel.service.shelf import Shelf
from unreel.service.wish import Wish

__all__ = ["Audit", "BusyError", "Policy", "RefusedError", "Server", "Service", "Shelf", "Wish", "serve"]

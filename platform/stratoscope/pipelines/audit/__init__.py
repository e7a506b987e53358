"""The audit job: runs stages over many models and forecasters, and compares them with previous nights."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.pipelines.audit.config import AuditConfig
    from stratoscope.pipelines.audit.run import AuditJob

__all__ = ["AuditConfig", "AuditJob"]

__getattr__ = exports(__name__)

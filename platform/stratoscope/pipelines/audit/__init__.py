"""The audit job: runs stages over many models and forecasters, and compares them with previous nights."""

from stratoscope.pipelines.audit.config import AuditConfig
from stratoscope.pipelines.audit.run import AuditJob

__all__ = ["AuditConfig", "AuditJob"]

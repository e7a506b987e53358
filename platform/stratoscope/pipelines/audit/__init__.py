"""The audit job: many models and forecasters, compared with the nights before."""

from stratoscope.pipelines.audit.config import AuditConfig
from stratoscope.pipelines.audit.run import AuditJob

__all__ = ["AuditConfig", "AuditJob"]

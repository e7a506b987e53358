"""The table rows of an assessed night."""

from collections.abc import Iterator

from stratoscope.pipelines.audit.assess import Assessment
from stratoscope.tables.audit import KeyMetricRow, LayerShiftRow, StageRow


def stage_row(a: Assessment) -> StageRow:
    """Return the row of `models`."""
    m = a.manifest
    return StageRow(
        model=a.subject,
        kind=a.step.subject.kind,
        stage=a.stage,
        status=a.result.status,
        verdict=a.verdict,
        error=a.result.error,
        job=m.job if m else None,
        stage_run_id=m.run_id if m else None,
        seconds=a.result.seconds,
        gpu_hours=a.gpu_hours,
        cpu_hours=a.result.cpu_hours,
        peak_memory_bytes=m.peak_memory_bytes if m else None,
        peak_gpu_memory_bytes=m.peak_gpu_memory_bytes if m else None,
        bytes=a.result.num_bytes,
        previous_night=a.previous.night if a.previous else None,
        changed=a.changes,
        regressions=a.regressions,
        drift=a.drift.max_shift if a.drift else None,
        figures=tuple((c.metric.name, c.metric.value) for c in a.comparisons),
    )


def metric_rows(a: Assessment) -> Iterator[KeyMetricRow]:
    """Yield the rows of `figures`."""
    for c in a.comparisons:
        yield KeyMetricRow(
            model=a.subject,
            stage=a.stage,
            figure=c.metric.name,
            kind=c.metric.kind,
            value=c.metric.value,
            ci_low=c.metric.low,
            ci_high=c.metric.high,
            before=c.before.value if c.before else None,
            loss=c.loss,
            threshold=c.threshold,
            regression=c.regressed,
        )


def shift_rows(a: Assessment) -> Iterator[LayerShiftRow]:
    """Yield the rows of `drift`."""
    for s in a.drift.shifts if a.drift else ():
        yield LayerShiftRow(
            model=a.subject,
            stage=a.stage,
            design=a.drift.design if a.drift else "",
            tap=s.tap,
            layer=s.layer,
            shift=s.shift,
            ci_low=s.low,
            ci_high=s.high,
            p_value=s.p_value,
            moved=s.moved,
        )

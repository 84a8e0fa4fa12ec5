"""Stage export: write the release folder, only if the audit allows it."""

from typing import Any

import jinja2
import numpy as np

from ray_jobs.console import Console
from ray_jobs.evaluate import loosened_line, report_page
from ray_jobs.folder import RunFolder
from ray_jobs.run_series import Stored, open_series
from ttsgan import recipes
from ttsgan.errors import ReleaseRefused

UNPROVEN_LINE = (
    "NOT PROVEN: this set was released with --accept-unproven. The audit could not prove that all privacy limits hold; "
    "some checks may even be measured above their limits. The reasons are given below."
)

SHEET = """\
{% if first_line %}{{ first_line }}

{% endif %}# Synthetic series{% if simulated %} (made from SIMULATED households){% endif %}

| | |
|---|---|
{% for name, value in rows -%}
| {{ name }} | {{ value }} |
{% endfor %}
Each row of `synthetic/part-*.parquet` is one series: `synthetic_id`, `start` (its first moment, in the clock of the
source: UTC where that told its zone), and `values`, an Arrow fixed-shape tensor that plain readers see as a list
{%- if channels > 1 %} of the {{ length }} values of channel 0, then those of channel 1, and so on{% endif %}. The unit,
the step and the number of channels are in the schema metadata too. With pandas, the first series as a line:

```python
import pandas as pd

series = pd.read_parquet("synthetic")
first = series.iloc[0]
values = first["values"].reshape({{ channels }}, {{ length }})
times = pd.date_range(first["start"], periods={{ length }}, freq="{{ step_seconds }}s")
pd.DataFrame(values.T, times).plot()
```

## Privacy audit: {{ verdict }}
{% for reason in reasons %}
- {{ reason }}
{%- endfor %}

PASS means that the attacks of the audit, with their knowledge, did not succeed on this set beyond the stated limits
with 95 % confidence each. It is not a proof against other attacks, and not a legal statement of anonymity. Every
further release made from the same households adds to what can be learned about them.

## How it was made
Each series was drawn from statistical models and networks that were fitted on {{ train_entities }} entities, guided by
an average over at least {{ k }} distinct ones. No row was made by changing a real one. The numbers behind this page are
in `datasheet.json`, the pictures in `report.html`.
"""


def check_release(folder: RunFolder, accept_unproven: bool) -> None:
    """Refuse a release that is not allowed; called before an earlier release is removed.

    Raises
    ------
    ReleaseRefused
        If canaries were planted; if ``audit.json`` is not of this run's own audit; if the verdict is FAIL or INVALID;
        without ``accept_unproven``, if the verdict is UNPROVEN or limits of the audit were loosened; or if the
        synthetic series have changed since the audit.
    """
    where = folder.where
    if folder.config.data.canaries:
        raise ReleaseRefused(
            f"data.canaries is {folder.config.data.canaries}: planted series were trained on, so that memory can be "
            "measured; there is no release. Run without canaries in another folder"
        )
    audit = (where / "audit.json").read_json()
    verdict = folder.summary("audit")["verdict"]
    if (audit["verdict"], audit["attempts"]) != (verdict, folder.manifest["audit_attempts"]):
        raise ReleaseRefused(
            f"{where / 'audit.json'} is not of this run's own audit; run: ttsgan audit --out {where.quoted}"
        )
    if verdict in ("FAIL", "INVALID"):
        raise ReleaseRefused(f"the audit's verdict is {verdict}: {audit['reasons'][0]}; there is no release")
    looser = loosened_line(folder.config)
    if looser and not accept_unproven:
        raise ReleaseRefused(f"{looser} Such a set is released only with --accept-unproven")
    if verdict != "PASS" and not accept_unproven:
        raise ReleaseRefused(
            f"the audit's verdict is {verdict}: {audit['reasons'][0]}; such a set is released only with "
            "--accept-unproven"
        )
    if open_series(where / "synthetic").fingerprint() != audit["fingerprints"]["synthetic"]:
        raise ReleaseRefused(
            f"{where / 'synthetic'} has changed since it was audited; run: ttsgan audit --out {where.quoted}"
        )


def run_export(folder: RunFolder, console: Console, accept_unproven: bool) -> dict[str, Any]:
    """Write ``release/`` unless `check_release`, which is called here too, refuses; return the summary."""
    check_release(folder, accept_unproven)
    where, verdict, looser = folder.where, folder.summary("audit")["verdict"], loosened_line(folder.config)
    audit, synthetic = (where / "audit.json").read_json(), open_series(where / "synthetic")
    first_line = f"{'' if verdict == 'PASS' else UNPROVEN_LINE} {looser}".strip()
    console.progress("writing the release")
    sheet = datasheet(folder, audit, synthetic, first_line)
    with (where / "release").replace_dir() as out:
        (out / "README.md").write_bytes(_readme(sheet).encode())
        (out / "datasheet.json").write_json(sheet)
        page = report_page(folder, first_line, show_real=folder.summary("prepare")["simulated"])
        (out / "report.html").write_bytes(page.encode())
        for part in (where / "synthetic").list(".parquet"):
            (out / "synthetic" / part.name).write_bytes(part.read_bytes())
    return {"verdict": verdict, "accepted_unproven": verdict != "PASS"}


def datasheet(folder: RunFolder, audit: dict[str, Any], synthetic: Stored, first_line: str) -> dict[str, Any]:
    """Return the facts that a user of the release needs; they name no source series and no group."""
    starts, step, length = synthetic.starts, synthetic.nothing.step_seconds, synthetic.nothing.values.shape[2]
    prepared, groups = folder.summary("prepare"), folder.summary("cluster")
    evaluation = (folder.where / "evaluation.json").read_json()
    return {
        "schema_version": 1,
        "first_line": first_line,
        "simulated_source": prepared["simulated"],
        "unit": prepared["unit"],
        "step_seconds": step,
        "length": length,
        "first_moment": str(starts.min()),
        "end": str(starts.max() + np.timedelta64(step * length, "s")),
        "channels": prepared["channels"],
        "series": folder.summary("generate")["series"],
        "train_entities": prepared["train_entities"],
        "holdout_entities": prepared["holdout_entities"],
        "min_group_size": groups["fewest_probes"],
        "groups": groups["groups"],
        "seed": folder.config.seed,
        "recipe": folder.config.recipe,
        "settings": {k: v for k, v in recipes.flat(folder.config).items() if not k.startswith(("data.", "runtime."))},
        "versions": folder.manifest["versions"],
        "fingerprint_of_series": audit["fingerprints"]["synthetic"],
        "headline": evaluation["headline"],
        "verdict": audit["verdict"],
        "reasons": audit["reasons"],
        "audits_made": len(audit["attempts"]),
    }


def _readme(sheet: dict[str, Any]) -> str:
    headline = sheet["headline"]
    fidelity = f"{headline['value']:.2f}"
    if headline["low"] is not None:
        fidelity += f" ({headline['low']:.2f} to {headline['high']:.2f})"
    rows = [
        ("Series", f"{sheet['series']}, {sheet['length']} points each"),
        ("Unit, step", f"{sheet['unit']}, {sheet['step_seconds']} s"),
        ("Period", f"{sheet['first_moment']} to {sheet['end']}"),
        ("Channels", sheet["channels"]),
        ("Entities in training, held out", f"{sheet['train_entities']}, {sheet['holdout_entities']}"),
        ("Fewest entities averaged to guide a series (k)", sheet["min_group_size"]),
        ("Fidelity", f"{fidelity}; 1 = as close to unseen real series as other real ones, more = farther away"),
        ("Audit verdict", f"{sheet['verdict']}, audit number {sheet['audits_made']} of this run"),
        ("Recipe, seed", f"{sheet['recipe']}, {sheet['seed']}"),
        ("Fingerprint of the series", sheet["fingerprint_of_series"]),
        ("Versions", ", ".join(f"{name} {number}" for name, number in sheet["versions"].items())),
    ]
    page = jinja2.Environment(autoescape=False, keep_trailing_newline=True).from_string(SHEET)
    return page.render(
        first_line=sheet["first_line"], simulated=sheet["simulated_source"], rows=rows, verdict=sheet["verdict"],
        length=sheet["length"], channels=sheet["channels"], step_seconds=sheet["step_seconds"],
        reasons=sheet["reasons"], train_entities=sheet["train_entities"], k=sheet["min_group_size"],
    )  # fmt: skip

"""Commands to type, below the help of each command."""

from __future__ import annotations

_EXAMPLES = {
    "init": ("init", "init prod.yaml"),
    "serve": ("serve", "serve dslim/bert-base-NER --port 9000", "serve ./my-model --open"),
    "show": ("show dslim/bert-base-NER", "show ./my-model --json"),
    "pull": ("pull", "pull dslim/bert-base-NER"),
    "predict": (
        'predict "Call Maria Garcia."',
        "predict --file letters/*.txt --whole --output found",
        "predict --jsonl --field body --labels CITY --min-score 0.8 < texts.jsonl",
        'predict --url http://localhost:8000 "Call Maria Garcia."',
    ),
    "redact": (
        'redact "Call Maria Garcia, maria@example.com"',
        "redact --file letters --whole --output redacted --resume",
        "redact --operators EMAIL=hash,DEFAULT=mask --file texts.jsonl",
        "redact --dry-run --file texts.txt",
    ),
    "verify": ("verify", "verify --texts texts.txt ./my-model"),
    "tune": (
        "tune --target-p99-ms 100 --out tuned.yaml",
        "tune --target-p99-ms 100 --precision float32,int8",
    ),
    "doctor": ("doctor", "doctor dslim/bert-base-NER"),
    "export": ("export OWNER/NAME ./exported",),
}


def examples(command: str) -> str | None:
    """Return the lines that stand below the help of a command; None where its description has them."""
    lines = _EXAMPLES.get(command)
    return None if lines is None else "\n".join(("examples:", *(f"  nerve {line}" for line in lines)))

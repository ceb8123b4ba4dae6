"""The corpus spec: which cohorts become which token corpus, and how. Nothing heavy is imported here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ehr_assets.paths import model_source
from ehr_assets.specs import Spec, parse_spec, read_yaml

Format = Literal["tagged", "smb"]
_READ_BY_OTHERS: dict[Format, tuple[str, ...]] = {
    "tagged": ("smb",),
    "smb": ("max_text_chars", "max_name_chars"),
}
# 256 bytes, the sixteen delimiters, padding, begin and end.
SMALLEST_VOCABULARY = 256 + 16 + 3


class BpeTokenizer(Spec):
    """A byte-level BPE vocabulary fitted on the train subjects of the corpus.

    Attributes:
        kind: "bpe".
        vocab_size: the largest vocabulary, special tokens included; fewer when the text has fewer merges.
        min_frequency: a pair seen less often than this is not merged.
    """

    kind: Literal["bpe"]
    vocab_size: int = Field(default=2048, ge=SMALLEST_VOCABULARY, le=1_000_000)
    min_frequency: int = Field(default=2, ge=1)


class FolderTokenizer(Spec):
    """The tokenizer that a backbone brings along: nothing is fitted, the delimiters are added.

    Attributes:
        kind: "folder".
        path: a Hugging Face tokenizer folder (what `save_pretrained` writes), or a name on the hub. It must
            have a fast form; code that comes with it is never run.
    """

    kind: Literal["folder"]
    path: Annotated[str, Field(min_length=1), AfterValidator(model_source)]


class SmbText(Spec):
    """Settings of the format `smb`. By default its text is that of the reference at a cut-off.

    Attributes:
        names: "code": lines begin with the code; "description": with its description, where there is one.
        static_rows: "dropped": rows without time are not shown, as in the reference when it is given an
            `end_time`; "kept": demographics without time end the demographics, as there without `end_time`.
    """

    names: Literal["code", "description"] = "code"
    static_rows: Literal["dropped", "kept"] = "dropped"


class CorpusSpec(Spec):
    """One token corpus.

    Attributes:
        name: the asset prefix.
        title: for people.
        cohorts: names of the cohorts, in the order in which their subjects are written.
        format: "tagged" is SMB Table 1's delimiter tokens; "smb" is the text of the released SMB models.
        smb: settings of the format "smb".
        tokenizer: fitted here, or brought by a backbone.
        max_text_chars: tagged: longer text values (notes, say) are cut, and end in an ellipsis.
        max_name_chars: tagged: longer descriptions and codes are cut in the same way.
        context_tokens: the context length at which `statistics.json` reports the share of records cut.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str = ""
    cohorts: list[str] = Field(min_length=1)
    format: Format = "tagged"
    smb: SmbText = SmbText()
    tokenizer: Annotated[BpeTokenizer | FolderTokenizer, Field(discriminator="kind")]
    max_text_chars: int = Field(default=200, ge=1)
    max_name_chars: int = Field(default=120, ge=1)
    context_tokens: int = Field(default=1024, ge=1)

    @field_validator("cohorts")
    @classmethod
    def _each_once(cls, cohorts: list[str]) -> list[str]:
        if len(set(cohorts)) != len(cohorts):
            raise ValueError("a cohort is named twice")
        return cohorts

    @model_validator(mode="after")
    def _no_settings_of_another_format(self) -> "CorpusSpec":
        fields = type(self).model_fields
        ignored = [f for f in _READ_BY_OTHERS[self.format] if getattr(self, f) != fields[f].default]
        if ignored:
            raise ValueError(f"the format '{self.format}' does not read {', '.join(ignored)}")
        return self


def load_corpus(path: Path, overrides: Mapping[str, Any] | None = None) -> CorpusSpec:
    """The corpus spec in a YAML file, with dotted `overrides` applied; SpecError names what is wrong."""
    return parse_spec(CorpusSpec, read_yaml(Path(path)), str(path), overrides)

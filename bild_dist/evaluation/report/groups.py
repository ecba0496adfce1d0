"""Which runs may stand in one table: those whose large model alone wrote, and was asked to write, the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Final

from bild_dist.evaluation.run.record import Record
from bild_dist.types import Options, Role

ASKED: Final = ("max_new_tokens", "stop", "truncate", "chat_template", "src_lang", "tgt_lang")
"""Options that the text of the large model alone depends on."""
DRAWN: Final = ("temperature", "top_k", "top_p", "seed")
"""And these, where tokens are drawn."""


def model_of(record: Record, role: Role) -> str:
    """What a run calls its model of that role."""
    return str(record.models.get(role.value, {}).get("model", role.value))


def weights_of(record: Record, role: Role) -> str:
    """A name for a model's weights; empty where the run did not note it."""
    return str(record.models.get(role.value, {}).get("weights", ""))


def numbers_of(record: Record, role: Role) -> str:
    """What a model computes with and on; empty where the run did not note it."""
    own = record.models.get(role.value, {})
    return " on ".join(str(own[name]) for name in ("dtype", "device") if own.get(name))


@dataclass(frozen=True, slots=True)
class Group:
    """What runs of one study have in common. Of the texts the ids, and the names of their prompts and
    references where the run noted them; of the large model its weights', because folders of two models
    can have the same name, what it computed with, and what it was asked for.
    """

    task: str
    split: str
    large: str
    drawn: str
    weights: str
    numbers: str
    asked: Options
    ids: frozenset[str]
    prompts: str
    references: str

    @classmethod
    def of(cls, record: Record) -> Group:
        options = asked(record)
        ids = [text.id for text in record.texts] + [failure.id for failure in record.failed]
        return cls(
            task=record.task,
            split=record.split,
            large=model_of(record, Role.LARGE),
            drawn=_drawn(options),
            weights=weights_of(record, Role.LARGE),
            numbers=numbers_of(record, Role.LARGE),
            asked=options,
            ids=frozenset(ids),
            prompts=str(record.environment.get("items", "")),
            references=str(record.environment.get("references", "")),
        )

    @property
    def looks(self) -> tuple[str, str, str, str]:
        """What the title says."""
        return (self.task, self.split, self.large, self.drawn)


def asked(record: Record) -> Options:
    """What the text of the large model alone depends on; all else, and what only draws where nothing is
    drawn, is as it is by default.
    """
    part = record.part if record.large is None else record.large
    options = part.setting.options
    names = ASKED + DRAWN * bool(options.temperature)
    return Options(**{name: getattr(options, name) for name in names})


def gathered(records: Iterable[Record]) -> dict[Group, list[Record]]:
    """The records by what they have in common. A large model of the same weights is the same under any name,
    and goes by the first. A record without a name of its references, which earlier versions did not note,
    stands with those that have one, if they all have the same.
    """
    found: defaultdict[Group, list[Record]] = defaultdict(list)
    titles: dict[Group, str] = {}
    keyed = []
    for record in records:
        key = Group.of(record)
        title = titles.setdefault(replace(key, large="", references=""), key.large)
        keyed.append((replace(key, large=title) if key.weights else key, record))
    named: defaultdict[Group, set[str]] = defaultdict(set)
    for key, _ in keyed:
        named[replace(key, references="")] |= {key.references} - {""}
    for key, record in keyed:
        known = named[replace(key, references="")]
        own = replace(key, references=min(known)) if len(known) == 1 else key
        found[own].append(record)
    return dict(found)


def apart(key: Group, groups: Iterable[Group]) -> str:
    """What tells a study from those with the same title: texts, weights, options, or at least a number."""
    alike = [other for other in groups if other.looks == key.looks]
    ours, theirs = _said(key), [_said(other) for other in alike]
    words = [said for name, said in ours.items() if len({one[name] for one in theirs}) > 1]
    same = [other for other in alike if _said(other) == ours]
    words += [f"texts {same.index(key) + 1} of {len(same)}"] if len(same) > 1 else []
    return ", ".join(words)


def _said(key: Group) -> dict[str, str]:
    """All that a title can name, by what it is."""
    options = {
        name: f"{name} {value if value != () else 'none'}"
        for name, value in ((spec.name, getattr(key.asked, spec.name)) for spec in fields(Options))
    }
    return {
        "ids": f"{len(key.ids)} texts",
        "weights": f"weights {key.weights[:6] or 'unknown'}",
        "numbers": key.numbers or "dtype unknown",
        **options,
        "references": f"references {key.references.partition('(')[2][:6] or 'unknown'}",
    }


def _drawn(options: Options) -> str:
    """How texts are drawn; empty where the most likely token is written."""
    if not options.temperature:
        return ""
    words = [f"top {options.top_k}"] if options.top_k else []
    words += [f"nucleus p = {options.top_p:g}"] if options.top_p < 1 else []
    if options.temperature != 1 or not words:
        words.insert(0, f"temperature {options.temperature:g}")
    return ", ".join(words)

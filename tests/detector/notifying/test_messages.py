from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from detector.alerts import Alert, AlertKind, Reason
from detector.config_notify import FIELDS, GroupSettings, TemplateSettings
from detector.notifying.messages import HAPPENED, Notification, compose, harmless, tone
from tests.detector.test_alerts import alert
from tests.security.test_injection import every_forgery


def composed(*alerts: Alert, lines: int = 20, **template: str) -> Notification:
    return compose(alerts, TemplateSettings(**template), GroupSettings(lines=lines))


def test_one_alert_says_what_happened_and_why() -> None:
    said = composed(alert())
    assert said.title == "[critical] machines: machine-1-6 not normal"
    assert said.text == ("2026-03-01 10:00:00 UTC critical: machine-1-6 not normal. cpu 0.98, expected 0.21")
    assert (said.tone, said.more) == ("failure", 0)


def test_every_kind_has_words() -> None:
    assert set(HAPPENED) == set(get_args(AlertKind))


def test_several_alerts_are_lines_under_a_title_that_counts_them() -> None:
    said = composed(alert(severity="minor", entity="a"), alert(severity="major", entity="b"), alert(entity="b"))
    assert said.title == "[critical] machines: 3 alerts on 2 entities"
    assert [line.split(": ")[1][0] for line in said.text.splitlines()] == ["a", "b", "b"]


def test_of_too_many_the_gravest_are_spelt_out_in_order_and_the_rest_counted() -> None:
    grave = {3, 7}
    alerts = [alert(entity=f"m{i}", severity="critical" if i in grave else "minor") for i in range(40)]
    said = composed(*alerts, lines=3)
    assert [it.entity for it in said.alerts] == ["m0", "m3", "m7"]
    assert said.text.splitlines()[-1] == "and 37 more"
    assert said.more == 37


def test_a_message_is_as_grave_as_what_is_open_after_it() -> None:
    opened, other = alert(), alert(incident="aa" * 16, severity="minor")
    over = alert(kind="resolved", reasons=[])
    assert tone([opened, other]) == "failure"
    assert tone([opened, other, over]) == "warning"
    assert tone([opened, over]) == "success"
    assert tone([alert(kind="drift")]) == "success"


def test_a_message_that_is_made_again_has_the_same_id_and_another_one_has_not() -> None:
    one, two = alert(), alert(id="aa" * 16)
    assert composed(one, two).id == composed(one, two).id
    assert len({composed(one).id, composed(two).id, composed(one, two).id}) == 3


def test_templates_may_say_every_field() -> None:
    said = composed(alert(p_value=None), line=" ".join(f"{field}=${field}" for field in FIELDS)).text
    assert "$" not in said
    assert "p_value=- " in said
    assert "partition=2 offset=77" in said


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"title": "$entitty"}, "$entitty is not known. Known: $id"),
        ({"title": "costs $ 5"}, "a dollar sign alone is written $$"),
        ({"title": "a\nBcc: b"}, "Expected one line"),
        ({"line": "${entity.__class__}"}, "a dollar sign alone"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused_at_the_start(template: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TemplateSettings.model_validate(template)
    assert words in str(refused.value)


def test_an_outbreak_names_some_of_its_entities() -> None:
    many = alert(entity="", members=12, entities=["a", "b", "c", "d"])
    assert composed(many).title == "[critical] machines: 12 entities (a, b, c, …) not normal"
    assert composed(alert(entity="")).title == "[critical] machines: the stream not normal"


@every_forgery
def test_a_record_forges_no_line_of_a_message(text: str) -> None:
    said = composed(alert(entity=text, reasons=[Reason(feature=text, observed=text, expected=text, share=1.0)]))
    assert said.title.isprintable()
    assert said.text.isprintable()


def test_what_is_harmless_is_left_as_it_is() -> None:
    text = "größer [b] a_b *c* http://host:9100/x?y=1 & 5 > 4 \N{SNOWMAN}"
    assert harmless(text) == text
    assert harmless("a@b <b> [x](y)") == "a＠b ＜b> [x]（y)"


def test_a_long_name_is_cut() -> None:
    assert len(composed(alert(entity="x" * 100_000)).text) < 2_000

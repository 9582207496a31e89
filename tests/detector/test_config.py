from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from consumers.settings import KafkaSettings
from detector.config import DetectorSettings, FeatureSettings
from detector.config_types import Duration
from detector.errors import SettingsError
from detector.loading import load, parse

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL: dict[str, Any] = {
    "name": "machines",
    "kafka": {"bootstrap": "localhost:9092"},
    "stream": {"topics": ["metrics"], "entity": "machine", "timestamp": "ts"},
    "features": ["cpu", "memory"],
    "alerts": {"topic": "alerts"},
}
SECRET = "hunter2"
SASL: dict[str, Any] = {"protocol": "sasl_ssl", "mechanism": "PLAIN", "username": "me", "password": SECRET}


def parsed(**changed: object) -> DetectorSettings:
    return parse({**MINIMAL, **changed})


def refusal(**changed: object) -> str:
    with pytest.raises(SettingsError) as caught:
        parsed(**changed)
    return str(caught.value)


def secured(**changed: object) -> dict[str, Any]:
    return {"bootstrap": "localhost:9092", "security": {**SASL, **changed}}


def loaded(tmp_path: Path, data: object, environment: Mapping[str, str] | None = None) -> DetectorSettings:
    path = tmp_path / "settings.yaml"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return load(path, environment or {})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_in_configs_loads(path: Path) -> None:
    secret = {"OFFNOMINAL__KAFKA__SECURITY__PASSWORD": "hunter2"} if path.name == "iot-sensors.yaml" else {}
    assert load(path, secret).features


def test_the_example_with_a_secret_does_not_load_without_it() -> None:
    with pytest.raises(SettingsError, match="wants one of password and password_file"):
        load(CONFIGS / "iot-sensors.yaml", {})


def test_a_bare_name_is_a_numeric_feature() -> None:
    assert parsed(features=["cpu"]).features == [FeatureSettings(name="cpu", kind="numeric")]


def test_group_and_dead_letter_topic_follow_from_name_and_alert_topic() -> None:
    settings = parsed()
    assert (settings.group, settings.dead_letter_topic) == ("offnominal-machines", "alerts-dead-letters")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"aletrs": {}}, "aletrs: no such setting. Did you mean 'alerts'?"),
        ({"window": {"lenght": 2}}, "window.lenght: no such setting. Did you mean 'length'?"),
        ({"kafka": {"bootstrap": "x", "security": {"pasword": "x"}}}, "kafka.security.pasword: no such setting. Did"),
        ({"features": [{"name": "x", "transfrom": "diff"}]}, "features.0.transfrom: no such setting. Did you mean 'tr"),
        ({"models": [{"type": "vae", "latnet": 3}]}, "models.0.vae.latnet: no such setting. Did you mean 'latent'?"),
        ({"models": [{"type": "gmm", "latent": 3}]}, "Known: type, components, max_components, covariance."),
        ({"store": {"qqq": 1}}, "store.qqq: no such setting. Known: url, poll, keep."),
    ],
)
def test_an_unknown_key_is_refused_by_name_with_the_nearest_known_one(changed: dict[str, Any], words: str) -> None:
    assert words in refusal(**changed)


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(SettingsError) as caught:
        parse({"kafka": {}, "stream": {"topics": ["x"]}, "models": [{}]}, origin="x.yaml")
    assert str(caught.value).splitlines() == [
        "x.yaml: 4 settings to mend",
        "  name: missing.",
        "  kafka.bootstrap: missing.",
        "  models.0.type: missing.",
        "  alerts: missing.",
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"alerts": {"topic": "a", "rate": 0.5}}, "alerts.rate has value 0.5: "),
        (
            {"alerts": {"topic": "a", "false_alarms": "3/year"}},
            "alerts.false_alarms has value '3/year': Expected a number",
        ),
        (
            {"alerts": {"topic": "a", "false_alarms": "0/day"}},
            "alerts.false_alarms has value '0/day': Expected a number",
        ),
        ({"alerts": {"topic": "a", "false_alarms": 3}}, "alerts.false_alarms has value 3"),
        ({"alerts": {"topic": "a", "cooldown": "0s"}}, "alerts.cooldown has value '0s'"),
        ({"calibration": {"level": "fixed"}}, "calibration.level has value 'fixed'"),
        ({"calibration": {"by": "a..b"}}, "calibration.by has value 'a..b': field path"),
        ({"window": {"length": "two"}}, "window.length has value 'two': "),
        ({"features": "all"}, "features has value 'all': Expected auto or a list of fields"),
        ({"features": []}, "features: List should have at least 1 item"),
        ({"features": [7]}, "features.0 has value 7"),
        ({"models": [{"type": "vea"}]}, "models.0: Input tag 'vea'"),
        ({"models": []}, "models: List should have at least 1 item"),
        ({"name": "../x"}, "name has value '../x'"),
        ({"training": {"timezone": "Mars/Base"}}, "training.timezone has value 'Mars/Base': Expected a time zone"),
        ({"training": {"timezone": "Europe"}}, "training.timezone has value 'Europe': Expected a time zone"),
        ({"stream": {"topics": ["no topic"]}}, "stream.topics.0 has value 'no topic'"),
        ({"alerts": {"topic": "x" * 250}}, "alerts.topic has value"),
        ({"kafka": {"bootstrap": ""}}, "kafka.bootstrap has value ''"),
    ],
)
def test_a_wrong_value_is_shown_with_its_key_and_what_was_wanted(changed: dict[str, Any], words: str) -> None:
    assert words in refusal(**changed)


def test_a_budget_is_stated_once() -> None:
    assert parsed(alerts={"topic": "a", "false_alarms": "3 / day"}).alerts.false_alarms == "3/day"
    both = {"topic": "a", "false_alarms": "3/day", "rate": 0.01}
    assert "alerts: false_alarms 3/day and rate 0.01 are two budgets: give one" in refusal(alerts=both)


def test_formats_with_schemas_want_a_registry_and_json_wants_none() -> None:
    registry, stream = {"url": "http://localhost:8081"}, MINIMAL["stream"]
    assert parsed(stream={**stream, "format": "avro", "registry": registry}).stream.registry
    assert "expected registry.url beside it" in refusal(stream={**stream, "format": "protobuf"})
    assert "expected no registry beside it" in refusal(stream={**stream, "registry": registry})


def test_features_are_found_in_json_alone() -> None:
    stream = {**MINIMAL["stream"], "format": "avro", "registry": {"url": "http://localhost:8081"}}
    assert "features: auto looks into JSON and stream.format is 'avro'" in refusal(stream=stream, features="auto")


def test_no_more_records_confirm_than_are_looked_at() -> None:
    assert parsed(alerts={"topic": "a", "confirm": {"records": 2, "of": 3}}).alerts.confirm.of == 3
    message = refusal(alerts={"topic": "a", "confirm": {"records": 3, "of": 2}})
    assert "alerts.confirm: 3 records of 2: records must not exceed of" in message


@pytest.mark.parametrize(("by", "segment"), [("entity", None), ("all", None), ("region", "region"), ("a.b", "a.b")])
def test_levels_are_of_entities_of_all_or_of_the_values_of_a_field(by: str, segment: str | None) -> None:
    assert parsed(calibration={"by": by}).segment == segment


def test_a_field_with_levels_of_its_own_is_a_category_if_it_is_a_feature_and_lies_in_no_other() -> None:
    assert "field 'cpu' is calibration.by: as a feature it must be categorical" in refusal(calibration={"by": "cpu"})
    assert "field 'cpu.user' lies within another one" in refusal(calibration={"by": "cpu.user"})
    assert parsed(features=[{"name": "route", "kind": "categorical"}], calibration={"by": "route"}).segment == "route"


def test_settings_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parsed().name = "other"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *[("90s", 90), ("5m", 300), ("1.5h", 5400), ("7d", 604800), ("2w", 1209600), ("250ms", 0.25), (" 5 m ", 300)],
        *[("90", 90), (90, 90), (0.5, 0.5)],
    ],
)
def test_durations_are_a_number_and_a_unit_or_seconds(written: object, seconds: float) -> None:
    assert parsed(training={"timeout": written}).training.timeout == seconds


@pytest.mark.parametrize("written", ["5 minutes", "m", "-5m", "0s", 0, -1, "", "1h30m", "inf", float("inf"), None])
def test_what_is_no_duration_is_refused(written: object) -> None:
    assert "training.timeout" in refusal(training={"timeout": written})


@settings(deadline=None)
@given(st.integers(1, 10**9) | st.sampled_from([0.001, 0.2, 0.25, 1.5, 90.5, 1234567.0, 5400.0]))
def test_a_duration_is_written_as_it_would_be_read(seconds: float) -> None:
    duration: TypeAdapter[float] = TypeAdapter(Duration)
    assert duration.validate_python(duration.dump_python(seconds, mode="json")) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("written", ["0 3 * * *", "*/15 * * * 1-5", "@daily", "0 3 29 2 *"])
def test_schedules_are_cron_expressions(written: str) -> None:
    assert parsed(training={"schedule": written}).training.schedule == written


@pytest.mark.parametrize("written", ["", "daily", "61 * * * *", "* * * *", "* * * * * *", "0 0 31 2 *", "@never"])
def test_what_is_no_cron_expression_or_never_comes_is_refused(written: str) -> None:
    assert f"training.schedule has value {written!r}: Expected minute, hour" in refusal(training={"schedule": written})


@pytest.mark.parametrize(
    "given_twice",
    [{"files": ["x.csv"], "records": 5}, {"files": ["x.csv"], "window": "1d"}, {"records": 5, "window": "1d"}],
)
def test_training_records_come_from_one_place(given_twice: dict[str, Any]) -> None:
    assert "training: files, records and window exclude one another" in refusal(training=given_twice)


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"name": "noon", "kind": "calendar"}, "features.0: calendar feature 'noon': name is one of hour, weekday"),
        ({"name": "x", "kind": "flag", "transform": "diff"}, "feature 'x' of kind flag takes no transform, got 'diff'"),
        ({"name": "x", "kind": "counter", "transform": "diff"}, "is a difference already"),
        ({"name": "x", "kind": "number"}, "features.0.kind has value 'number'"),
        ({"name": 'a"b'}, "features.0.name has value 'a\"b': field path"),
        ({"name": "a..b"}, "features.0.name has value 'a..b': field path"),
        ("ts", "field 'ts' is stream.timestamp: it cannot be a feature"),
        ("machine", "field 'machine' is stream.entity: as a feature it must be categorical"),
        ("machine.load", "field 'machine.load' lies within another one that is used"),
    ],
)
def test_a_feature_that_makes_no_sense_is_refused(feature: object, words: str) -> None:
    assert words in refusal(features=[feature])


def test_a_feature_may_not_come_twice_nor_lie_within_another() -> None:
    assert "features name cpu more than once" in refusal(features=["cpu", "mem", {"name": "cpu", "kind": "counter"}])
    assert "field 'cpu.user' lies within another one" in refusal(features=["cpu", "cpu.user"])
    assert parsed(features=["cpu", r"cpu\.user"])


def test_the_entity_may_be_a_category_and_calendar_names_are_no_fields() -> None:
    assert parsed(
        stream={"topics": ["x"], "entity": "machine", "timestamp": "hour"},
        features=[{"name": "machine", "kind": "categorical"}, {"name": "hour", "kind": "calendar"}],
    )


def test_entity_and_time_are_two_fields() -> None:
    assert "both stream.entity and" in refusal(stream={"topics": ["x"], "entity": "t", "timestamp": "t"})


def test_a_model_may_not_come_twice() -> None:
    assert "models hold gmm more than once" in refusal(models=[{"type": "gmm"}, {"type": "gmm", "components": 2}])


@pytest.mark.parametrize(
    "changed",
    [
        {"alerts": {"topic": "metrics"}},
        {"dead_letters": {"topic": "metrics"}},
        {"dead_letters": {"topic": "alerts"}},
        {"stream": {"topics": ["metrics", "alerts-dead-letters"]}},
        {"state": {"topic": "alerts"}},
    ],
)
def test_topics_of_records_alerts_dead_letters_and_state_must_differ(changed: dict[str, Any]) -> None:
    assert "topics of records, alerts, dead letters, state and feedback must differ" in refusal(**changed)


def test_a_watchdog_shorter_than_a_batch_may_wait_for_the_broker_is_refused() -> None:
    told = refusal(health={"watchdog": "60s"})
    assert "health.watchdog is 60 s: expected at least 120 s" in told


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"protocol": "sasl_plaintext"}, "PLAIN over sasl_plaintext shows the password to the network"),
        ({"protocol": "ssl"}, "SASL protocols want a mechanism, others none"),
        ({"mechanism": None}, "SASL protocols want a mechanism, others none"),
        ({"username": None}, "mechanism PLAIN wants username"),
        ({"password": None}, "wants one of password and password_file"),
        ({"password_file": "/secret"}, "wants one of password and password_file"),
        ({"mechanism": "OAUTHBEARER"}, "OAUTHBEARER wants token_file"),
        ({"certificate_file": "/c.pem"}, "certificate_file and key_file go together"),
    ],
)
def test_security_settings_that_do_not_go_together_are_refused(changed: dict[str, Any], words: str) -> None:
    message = refusal(kafka=secured(**changed))
    assert "kafka.security: " in message
    assert words in message


def test_plain_without_tls_is_possible_if_asked_for() -> None:
    assert parsed(kafka=secured(protocol="sasl_plaintext", allow_plain_without_tls=True))
    assert parsed(kafka=secured(protocol="sasl_plaintext", mechanism="SCRAM-SHA-256"))


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = parsed(kafka=secured(key_password="hunter2"))
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "hunter2" not in shown
    assert settings.kafka.security.password is not None
    assert settings.kafka.security.password.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    "kafka",
    [
        secured(protocol="sasl_plaintext"),
        secured(password=["hunter2"]),
        secured(password={"hunter2": 1}),
        secured(key_password=["hunter2"], username=5),
        secured(passwort="hunter2"),
    ],
)
def test_secrets_are_in_no_error_nor_traceback(kafka: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        parsed(kafka=kafka)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match="validation error") as direct:
        KafkaSettings.model_validate(kafka)
    assert "hunter2" not in str(direct.value)


def test_a_file_that_is_no_yaml_is_named_with_the_place_but_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"settings.yaml' is not YAML at line 2, column 11\.") as caught:
        loaded(tmp_path, f"name: x\npassword: @{SECRET}\n")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- x\n", "holds list. Expected keys like name, kafka, stream, alerts"),
        (b"", "holds NoneType"),
        (b"name: 2026-13-45\n", "is not YAML"),
        (b"name: \xff\n", "is not UTF-8 at byte 6"),
    ],
)
def test_a_file_without_settings_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=words):
        load(path, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.yaml' cannot be read: No such file"):
        load(tmp_path / "nowhere.yaml", {})


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        {**MINIMAL, "batch": None},
        {
            "OFFNOMINAL__KAFKA__BOOTSTRAP": "other:9092",
            "OFFNOMINAL__ALERTS__RATE": "0.01",
            "OFFNOMINAL__ALERTS__QUIET_FOR": "90",
            "OFFNOMINAL__TRAINING__ON_START": "true",
            "OFFNOMINAL__STREAM__TOPICS": "[a, b]",
            "OFFNOMINAL__FEATURES": "[cpu, {name: sent, kind: counter}]",
            "OFFNOMINAL__BATCH__MAX_RECORDS": "7",
            "OFFNOMINAL_KAFKA": "not ours",
            "PATH": "/bin",
        },
    )
    assert settings.kafka.bootstrap == "other:9092"
    assert (settings.alerts.rate, settings.alerts.quiet_for, settings.training.on_start) == (0.01, 90, True)
    assert settings.stream.topics == ["a", "b"]
    assert settings.features == [FeatureSettings(name="cpu"), FeatureSettings(name="sent", kind="counter")]
    assert settings.batch.max_records == 7


@pytest.mark.parametrize("secret", ["hunter2", "[hunter2", "{x}", "null", "007", " hunter2 "])
def test_a_secret_of_the_environment_is_taken_as_it_is(tmp_path: Path, secret: str) -> None:
    file = {**MINIMAL, "kafka": secured(password=None)}
    settings = loaded(tmp_path, file, {"OFFNOMINAL__KAFKA__SECURITY__PASSWORD": secret})
    assert settings.kafka.security.password is not None
    assert settings.kafka.security.password.get_secret_value() == secret


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("OFFNOMINAL__KAFKA__BOOTSTRAPP", "x", "kafka.bootstrapp: no such setting. Did you mean 'bootstrap'?"),
        ("OFFNOMINAL__NAME__X", "x", "OFFNOMINAL__NAME__X reaches into 'name', which holds a str"),
        ("OFFNOMINAL__MODELS__0__TYPE", "vae", "reaches into 'models', which holds a list"),
        ("OFFNOMINAL__STREAM__TOPICS", "[a", "OFFNOMINAL__STREAM__TOPICS is not YAML at line 1"),
    ],
)
def test_a_variable_that_fits_nowhere_is_refused(tmp_path: Path, variable: str, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words.replace("?", r"\?")):
        loaded(tmp_path, {**MINIMAL, "models": [{"type": "gmm"}]}, {variable: text})


def test_settings_written_as_json_read_the_same() -> None:
    settings = parsed(
        training={"window": "7d", "schedule": "0 3 * * *"},
        models=[{"type": "vae"}, {"type": "gmm"}],
        calibration={"by": "region", "level": "static"},
        alerts={"topic": "a", "false_alarms": "3/day", "cooldown": "10m", "remind_after": "6h"},
    )
    assert parse(json.loads(settings.model_dump_json())) == settings

from headrace_proto.names import model_health_name


def test_health_names_tell_a_model_and_a_version_apart() -> None:
    assert model_health_name("digits") == "model:digits"
    assert model_health_name("digits", "3") == "model:digits:3"

from vivit_train.seeds import derive_seed


def test_seeds_do_not_change_between_versions() -> None:
    assert derive_seed(0, 1, 2) == 6892990246117180931
    assert derive_seed(0, "order", 1) != derive_seed(0, "order", 2)
    assert 0 <= derive_seed("x") < 2**63


def test_names_that_are_not_utf8_have_seeds() -> None:
    assert derive_seed("split", "caf\udce9.mp4") != derive_seed("split", "caf\udce8.mp4")

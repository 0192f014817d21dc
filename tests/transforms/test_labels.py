import pytest
import torch

from vivit_train.errors import UserError
from vivit_train.transforms.labels import mirror_labels, mirrored_classes, to_shares, within_heads

HEADS = {"noun": 3, "verb": 2}


def test_labels_of_flipped_clips_are_mirrored() -> None:
    mirrors = [torch.tensor([1, 0, 2]), torch.tensor([1, 0])]
    one, several = torch.tensor([0, 1, 2, 0]), torch.tensor([[0, 0], [1, 1], [2, 0], [0, 1]])
    flips = [True, False, True, False]
    assert mirror_labels(one, flips, mirrors[:1]).tolist() == [1, 1, 2, 0]
    assert mirror_labels(several, flips, mirrors).tolist() == [[1, 1], [1, 1], [2, 1], [0, 1]]
    assert one.tolist() == [0, 1, 2, 0]  # the batch's own stay


def test_labels_of_any_number_of_classes() -> None:
    mirrors, labels = [torch.tensor([1, 0, 2])], torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0]])
    mirrored = mirror_labels(labels, [True, True, False], mirrors, multi_label=True)
    assert mirrored.tolist() == [[0, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert to_shares(labels, [3], torch.float32, multi_label=True).tolist() == labels.tolist()


def test_labels_count_from_0_within_each_head() -> None:
    assert within_heads(HEADS) == [0, 1, 2, 0, 1]
    assert within_heads({}) == []


def test_shares_of_the_classes() -> None:
    shares = to_shares(torch.tensor([2, 0]), [3], torch.bfloat16)
    assert shares.dtype == torch.bfloat16
    assert shares.tolist() == [[0, 0, 1], [1, 0, 0]]
    both = to_shares(torch.tensor([[0, 0], [2, 1]]), [3, 2], torch.float32)
    assert both.tolist() == [[1, 0, 0, 1, 0], [0, 0, 1, 0, 1]]


class TestMirroredClasses:
    NAMES = ("turn left", "stand", "turn right", "look left", "look right")

    @pytest.mark.parametrize(
        "given",
        [
            [["turn left", "turn right"], ["look right", "look left"]],
            {"turn left": "turn right", "look left": "look right"},
            {"turn left": "turn right", "turn right": "turn left", "look left": "look right"},
            [["Turn_Left", "turn right"], ["look left", "look right"]],
        ],
    )
    def test_pairs(self, given):
        assert mirrored_classes(given, self.NAMES, {}) == [[2, 1, 0, 4, 3]]

    def test_of_several_heads(self):
        heads = {"turn": 3, "look": 2}
        pairs = [["turn left", "turn right"], ["look left", "look right"]]
        assert mirrored_classes(pairs, self.NAMES, heads) == [[2, 1, 0], [1, 0]]

    @pytest.mark.parametrize(
        "text",
        ["- [turn left, turn right]\n", "turn left: turn right\n", '[["turn left", "turn right"]]'],
    )
    def test_file(self, tmp_path, text):
        (tmp_path / "pairs.yaml").write_text(text)
        assert mirrored_classes(f"{tmp_path}/pairs.yaml", self.NAMES, {}) == [[2, 1, 0, 3, 4]]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([["turn left", "turn up"]], "names turn up, which the data set does not have; its cl"),
            ([["turn left"]], r"must be pairs of class names, e\.g\. .* not \[\['turn left'\]\]"),
            ([], "must be pairs of class names"),
            ([["turn left", 3]], "must be pairs of class names"),
            (["turn left"], "must be pairs of class names"),
            ([1, 2], "must be pairs of class names"),
            ("nowhere.yaml", "augment.flip_labels=nowhere.yaml cannot be read as YAML: .*No such"),
            (
                [["turn left", "turn right"], ["turn left", "stand"]],
                "pairs 'turn left' with both 'turn right' and 'stand'",
            ),
            ([["stand", "look left"]], "pairs 'stand' with 'look left' of another head"),
        ],
    )
    def test_errors(self, given, message):
        with pytest.raises(UserError, match=message):
            mirrored_classes(given, self.NAMES, {"turn": 3, "look": 2})

    def test_a_name_that_comes_twice_in_a_file(self, tmp_path):
        (tmp_path / "pairs.yaml").write_text("turn left: turn right\nturn left: stand\n")
        with pytest.raises(UserError, match="'turn left' with both 'turn right' and 'stand'"):
            mirrored_classes(f"{tmp_path}/pairs.yaml", self.NAMES, {})

    @pytest.mark.parametrize("text", ["", "turn left", "3"])
    def test_files_without_pairs(self, tmp_path, text):
        (tmp_path / "pairs.yaml").write_text(text)
        with pytest.raises(UserError, match="must be pairs of class names"):
            mirrored_classes(f"{tmp_path}/pairs.yaml", self.NAMES, {})

    def test_what_is_no_yaml(self, tmp_path):
        (tmp_path / "pairs.yaml").write_text("[[a, b]")
        with pytest.raises(UserError, match="cannot be read as YAML"):
            mirrored_classes(f"{tmp_path}/pairs.yaml", self.NAMES, {})

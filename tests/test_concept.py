import pytest

from unreel import Concept, UnreelError


def test_every_forget_prompt_names_the_concept_and_synonyms_add_prompts():
    plain, richer = Concept("Tokyo Tower"), Concept("Tokyo Tower", synonyms=("red tower",))
    assert len(plain.forget_prompts) == 27 and all("Tokyo Tower" in p for p in plain.forget_prompts)
    assert len(richer.forget_prompts) == 54 and "a photo of a red tower" in richer.forget_prompts


def test_each_kind_has_its_own_wording():
    assert "a painting in the style of ink" in Concept("ink", "style").forget_prompts
    assert "a video of a person spinning" in Concept("spinning", "motion").forget_prompts


@pytest.mark.parametrize(
    ("name", "kind", "synonyms", "message"),
    [
        ("", "object", (), "concept is empty"),
        ("  ", "object", (), "concept is empty"),
        ("cat", "object", ("kitten", ""), "concept is empty"),
        ("cat", "animal", (), "unknown kind 'animal'"),
    ],
)
def test_bad_concepts_are_refused_with_a_reason(name, kind, synonyms, message):
    with pytest.raises(UnreelError, match=message):
        Concept(name, kind, synonyms)

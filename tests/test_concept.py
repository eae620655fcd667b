import pytest

from unreel import Concept, UnreelError


def test_every_forget_prompt_names_the_concept_and_synonyms_add_prompts():
    plain, richer = Concept("Tokyo Tower"), Concept("Tokyo Tower", synonyms=("red tower",))
    assert len(plain.forget_prompts) == 27 and all("Tokyo Tower" in p for p in plain.forget_prompts)
    assert len(richer.forget_prompts) == 54 and "a photo of a red tower" in richer.forget_prompts


def test_each_kind_has_its_own_wording():
    assert "a painting in the style of ink" in Concept("ink", "style").forget_prompts
    assert "a video of a person spinning" in Concept("spinning", "motion").forget_prompts
    assert "a photo of nudity" in Concept("nudity", "unsafe").forget_prompts


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


@pytest.mark.parametrize(
    "text", ["Tokyo Tower", "a photo of TOKYO TOWER, lit", "tokyo tower's top", "the red mast!", "tokyo  tower"]
)
def test_it_is_named_where_a_wording_stands_as_whole_words_in_any_case(text):
    assert Concept("Tokyo Tower", synonyms=("red mast",)).is_named_in(text)


@pytest.mark.parametrize("text", ["", "a tower in Tokyo", "Tokyo Towers", "infrared mast"])
def test_it_is_not_named_by_parts_or_inside_other_words(text):
    assert not Concept("Tokyo Tower", synonyms=("red mast",)).is_named_in(text)


@pytest.mark.parametrize("name", ["c++", "what?", "(a)", "a.b", "50%"])
def test_signs_in_a_name_are_taken_as_they_are(name):
    assert Concept(name).is_named_in(f"a photo of {name}") and not Concept("a.b").is_named_in("a-b axb")


@pytest.mark.parametrize("anchor", [None, "", "a castle", "catfish"])
def test_an_anchor_may_be_anything_else_or_nothing(anchor):
    assert Concept("cat", anchor=anchor).anchor == anchor


@pytest.mark.parametrize("anchor", ["cat", "a black Cat", "KITTEN", "a dog and a cat"])
def test_an_anchor_that_names_the_concept_is_refused(anchor):
    with pytest.raises(UnreelError, match=r"names 'cat', which is to be forgotten"):
        Concept("cat", synonyms=("kitten",), anchor=anchor)

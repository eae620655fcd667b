import pytest

from unreel import Concept, UnreelError
from unreel.prompts import captions
from unreel.prompts.concept import naming


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Spider-Man", "a spider man on a roof"),
        ("Spider Man", "a Spider\u2011Man on a roof"),
        ("Spider\u2013Man", "SPIDER-MAN"),
        ("Spider-Man", "spider\xa0\n man"),
        ("spider man", "spider - man"),
        ("Spider-Man", "Spiderman"),
        ("Tokyo Tower", "#TokyoTower"),
        ("Tokyo Tower", "tokyo_tower_at_night"),
        ("Tokyo Tower", "a photo of \uff34\uff4f\uff4b\uff59\uff4f Tower"),
        ("Tokyo Tower", "Tokyo Tow\u00ader"),
        ("L\u2019Or\u00e9al", "a L'Oreal advert"),
        ("McDonald's", "inside a McDonald\u2019s"),
        ("McDonald's", "inside a McDonalds"),
        ("WALL\u00b7E", "wall-e and a plant"),
        ("LEGO", "LEGO\u2122 bricks"),
        ("Salvador Dal\u00ed", "by Salvador Dali\u0301"),
        ("Salvador Dali\u0301", "by salvador dal\u00ed"),
        ("Salvador Dal\u00ed", "by Salvador Dali"),
        ("Salvador Dali", "by SALVADOR DAL\u00cd"),
        ("Lodz", "\u0141\u00f3d\u017a at night"),
        ("Чебурашка", "ЧЕБУРАШКА и крокодил"),
        ("ёлка", "новогодняя елка"),
        ("cafe", "two caf\u00e9s"),
    ],
)
def test_other_spellings_of_a_name_are_the_same_name(name, text):
    assert Concept(name).is_named_in(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Tokyo Tower", "two Tokyo Towers"),
        ("Tokyo Tower", "Tokyo Towers\u2019 lights"),
        ("Tokyo Tower", "Tokyo Tower\u2019s lights"),
        ("Van Gogh", "Van Gogh\u2019s sunflowers"),
        ("wolf", "a pack of wolves"),
        ("polar bear", "polar bears on ice"),
        ("fox", "foxes"),
        ("pony", "ponies"),
        ("kitchen knife", "kitchen knives"),
        ("snowman", "snowmen"),
        ("Roman", "the Romans"),
        ("hero", "heroes"),
        ("mouse", "three mice"),
        ("child", "children"),
        ("wolves", "one wolf"),
        ("Tokyo Towers", "the Tokyo Tower"),
        ("boxes", "a box"),
        ("ponies", "a pony"),
        ("women", "a woman"),
    ],
)
def test_it_is_named_by_its_plural_singular_and_possessive(name, text):
    assert Concept(name).is_named_in(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("東京タワー", "夜の東京タワーの写真"),
        ("東京 タワー", "夜の東京タワーの写真"),
        ("スパイダー・マン", "スパイダーマンの絵"),
        ("ガンダム", "巨大なｶﾞﾝﾀﾞﾑ"),
        ("长城", "雪中的长城照片"),
        ("แมว", "รูปแมวสีดำ"),
        ("Tokyo Tower", "夜のTokyo Towerの写真"),
        ("고양이", "고양이가 잔다"),
    ],
)
def test_it_is_named_inside_texts_without_spaces(name, text):
    assert Concept(name).is_named_in(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Tokyo Tower", ""),
        ("Tokyo Tower", "a tower in Tokyo"),
        ("Tokyo Tower", "Tokyo Towering"),
        ("red mast", "infrared mast"),
        ("cat", "a category of catfish, a tomcat"),
        ("green house", "a greenhouse"),
        ("bus", "buss, busy"),
        ("news", "a new car"),
        ("cafe", "caves"),
        ("glass", "glas"),
        ("кот", "который"),
        ("हाथ", "हाथी"),  # hand, elephant: the sign at the end is no letter to Python
        ("개", "개미와 무지개"),  # dog: ant, rainbow
        ("スタ", "スター"),
        ("чай", "чаи"),
        ("か", "が"),
    ],
)
def test_it_is_not_named_by_parts_or_inside_other_words(name, text):
    assert not Concept(name).is_named_in(text)


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


@pytest.mark.parametrize("name", ["\u200b", " \xa0", "\u0301"])
def test_a_name_of_nothing_that_one_can_read_is_empty(name):
    with pytest.raises(UnreelError, match="concept is empty"):
        Concept(name)


@pytest.mark.parametrize("name", ["-", "'", "++", "...", "a", "The "])
def test_a_name_that_says_nothing_is_refused(name):
    with pytest.raises(UnreelError, match="says nothing: name what to forget"):
        Concept(name)


@pytest.mark.parametrize("name", [" cat ", "\U0001f5fc"])
def test_what_is_hardly_a_name_is_not_named_by_everything(name):
    assert Concept(name).is_named_in(f"so {name} here") and not Concept(name).is_named_in("a dog")


EVERY_KIND = [
    ("Tokyo Tower", "object", "tokyo tower|TOKYO TOWER|Tokyo Towers|Tokyo Tower's|Tokyo-Tower|TokyoTower"),
    ("tokyo  tower", "object", "TOKYO TOWER|Tokyo Tower|tokyo towers|tokyo tower's|tokyo-tower"),
    ("Spider-Man", "character", "spider-man|SPIDER-MAN|Spider-Men|Spider-Man's|Spiderman"),
    ("wolf", "object", "WOLF|Wolf|wolves|wolf's"),
    ("cats", "object", "CATS|Cats|cats'"),
    ("Tom Cruise", "face", "tom cruise|TOM CRUISE|Tom Cruise's|Tom-Cruise|TomCruise"),
    ("Vincent van Gogh", "style", "vincent van gogh|VINCENT VAN GOGH|Vincent Van Gogh|Vincent van Gogh's|Vincent-van-Gogh"),
    ("oil painting", "style", "OIL PAINTING|Oil Painting|oil-painting"),
    ("Impressionism", "style", "impressionism|IMPRESSIONISM"),
    ("dancing", "motion", "DANCING|Dancing"),
    ("nudity", "unsafe", "NUDITY|Nudity"),
    ("McDonald's", "object", "mcdonald's|MCDONALD'S"),
    ("東京タワー", "object", ""),
]


@pytest.mark.parametrize(("name", "kind", "others"), EVERY_KIND)
def test_variants_are_what_people_write_for_a_kind_and_every_one_names_the_concept(name, kind, others):
    concept = Concept(name, kind)
    variants = concept.variants()
    assert list(variants.values()) == [" ".join(name.split()), *filter(None, others.split("|"))]
    assert all(concept.is_named_in(f"a photo of {text}, lit") for text in variants.values())


def test_variants_of_a_synonym():
    assert Concept("cat", synonyms=("kitten",)).variants("kitten")["plural"] == "kittens"


@pytest.mark.parametrize("name", [5, None, b"cat"])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(UnreelError, match="a concept's name is a text"):
        Concept(name)


def test_synonyms_that_are_one_text_are_refused():
    with pytest.raises(UnreelError, match="its synonyms are a list of texts"):
        Concept("cat", synonyms="kitten")


def test_whether_any_of_many_is_named_is_whether_one_of_them_is():
    names = [word for words in captions.everyday().values() for word in words]
    names += ["Tokyo Tower", "東京タワー", "Tōkyō Tawā", "스파이더맨", "AC/DC", "a.b", "fleur-de-lis"]
    concepts = [Concept(name) for name in dict.fromkeys(names)][::7]
    named = naming(concepts)
    texts = [Concept(name).variants()[way] for name in names for way in Concept(name).variants()]
    texts += [f"a photo of {text}, lit" for text in texts] + ["an axb at night", "東京タワーの夜", "", "nothing of these"]
    told = {text: any(concept.is_named_in(text) for concept in concepts) for text in texts[::5]}
    assert {text: named(text) for text in told} == told
    assert 100 < sum(told.values()) < len(told) - 100
    assert not naming([])("") and not naming([])("a cat")

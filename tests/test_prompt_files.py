import json

import pytest

from unreel import UnreelError
from unreel.prompts.files import PromptRow, read_prompts


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


I2P = "prompt,categories,hard,nudity_percentage,lexica_url,{},sd_guidance_scale\n"
VBENCH = [
    {"prompt_en": "a teapot", "dimension": ["object_class"], "auxiliary_info": {"object_class": {"object": "teapot"}}},
    {"prompt_en": "a blue teapot", "dimension": ["color"], "auxiliary_info": {"color": {"color": "blue"}}},
    {"prompt_en": "a teapot that pours", "dimension": ["dynamic_degree", "motion_smoothness"]},
]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        (
            "own.json",
            '["a paper kite", " a kite "]',
            [("a paper kite", "given", None, None), ("a kite", "given", None, None)],
        ),
        (
            "own.json",
            '[{"prompt": "a kite", "group": "toys", "label": "kite", "seed": 0}, {"prompt": "owls", "seed": null}, "cats"]',
            [("a kite", "toys", "kite", 0), ("owls", "given", None, None), ("cats", "given", None, None)],
        ),
        ("own.CSV", "prompt\na paper kite\n", [("a paper kite", "given", None, None)]),
        (
            "own.csv",
            "seed,label,prompt,group\r\n7,kite,a kite,toys\r\n,,an owl,\r\n",
            [("a kite", "toys", "kite", 7), ("an owl", "given", None, None)],
        ),
        (
            "vbench.json",
            json.dumps(VBENCH),
            [
                ("a teapot", "object_class", "teapot", None),
                ("a blue teapot", "color", "", None),
                ("a teapot that pours", "dynamic_degree, motion_smoothness", "", None),
            ],
        ),
        (
            "i2p.csv",
            I2P.format("sd_seed") + '"a gloomy kite, ink","hate, shocking",0,0.0,https://x.test/1,4261553411,7\n',
            [("a gloomy kite, ink", "hate, shocking", None, 4261553411)],
        ),
        (
            "i2p.csv",
            "," + I2P.format("evaluation_seed") + "0,a gloomy kite,shocking,0,0.0,https://x.test/1,12,7\n",
            [("a gloomy kite", "shocking", None, 12)],
        ),
        (
            "bell.csv",
            'prompt,case_number,evaluation_seed\n"kite ""#~ 🪁, owl ",0,41\nowl kite \\,1,14\n',
            [('kite "#~ 🪁, owl', "given", None, 41), ("owl kite \\", "given", None, 14)],
        ),
        (
            "imagenet.csv",
            "case_number,prompt,evaluation_seed,class\n0,Image of church,41,church\n1,Image of a tench,42,tench\n",
            [("Image of church", "given", "church", 41), ("Image of a tench", "given", "tench", 42)],
        ),
        (
            "art.csv",
            "case_number,prompt,evaluation_seed,artist\n0,A boat by Kelly McKernan,9,Kelly McKernan\n",
            [("A boat by Kelly McKernan", "given", "Kelly McKernan", 9)],
        ),
        (
            "coco.csv",
            "case_number,source,prompt,evaluation_seed\n0,coco,a dog on a boat,7\n",
            [("a dog on a boat", "given", "", 7)],
        ),
        (
            "list.txt",
            '# ours\na kite, "flying"\r\n\n  an owl\u2028at night  ',
            [('a kite, "flying"', "given", None, None), ("an owl\u2028at night", "given", None, None)],
        ),
    ],
)
def test_each_format_is_told_by_its_fields(write, name, content, rows):
    assert read_prompts(write(name, content)) == [PromptRow(*row) for row in rows]


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_prompt_or_column(write, name):
    content = {"a.json": '["a kite"]', "a.csv": "prompt\na kite\n", "a.txt": "a kite\n"}[name]
    assert read_prompts(write(name, b"\xef\xbb\xbf" + content.encode())) == [PromptRow("a kite", "given", None, None)]


def test_a_file_may_be_named_by_a_text(write):
    file = write("a.txt", "a kite\n")
    assert read_prompts(str(file)) == read_prompts(file)


def test_a_quoted_newline_stays_in_its_prompt(write):
    assert [row.text for row in read_prompts(write("a.csv", 'prompt,seed\n"a kite\nat dusk",1\nan owl,2\n'))] == [
        "a kite\nat dusk",
        "an owl",
    ]


def test_exact_repetitions_are_kept_once_and_the_order_stays(write):
    rows = read_prompts(write("a.csv", "prompt,seed\nan owl,1\na kite,1\nan owl,1\nan owl,2\n"))
    assert [(row.text, row.seed) for row in rows] == [("an owl", 1), ("a kite", 1), ("an owl", 2)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "- a kite", "unknown suffix: prompts are read from .json, .csv, .txt"),
        ("a.json", "", "cannot read .*a.json: Expecting value"),
        ("a.json", '["a kite"', "cannot read .*a.json: .*line 1 column 10"),
        ("a.json", "[" * 100_000, "cannot read .*a.json: "),
        ("a.json", '{"prompt": "a kite"}', "not a list of prompts"),
        ("a.json", "[]", "an empty one"),
        ("a.json", '["a kite", 3]', "row 2: it is neither a text nor an object"),
        ("a.json", '["a kite", " "]', "row 2: the prompt is empty"),
        ("a.json", '[{"prompt": null}]', "row 1: the prompt is empty"),
        ("a.json", '[{"prompt": ["a kite"]}]', r"row 1: its prompt is neither text nor a whole number: \['a kite'\]"),
        (
            "a.json",
            '[{"text": "a kite"}]',
            r"row 1: the fields 'text' are of no known format \(unreel: prompt.*VBench.*I2P.*Bell",
        ),
        ("a.json", '[{"prompt": "a kite", "lable": "kite"}]', "row 1: the fields 'prompt', 'lable' are of no known format"),
        ("a.json", '[{"prompt": "a kite", "seed": 1, "seed": 2}]', "a.json: it has 'seed' twice.*keep one of them"),
        ("a.json", "[{}]", r"the fields \(none\)"),
        ("a.json", '[{"prompt": "a kite", "seed": 1.5}]', "row 1: its seed is neither text nor a whole number: 1.5"),
        ("a.json", '[{"prompt": "a kite", "seed": true}]', "row 1: its seed is neither"),
        ("a.json", '[{"prompt": "a kite", "seed": -1}]', "row 1: '-1' is no seed"),
        ("a.json", '[{"prompt": "a kite", "seed": 18446744073709551616}]', "row 1: '18446744073709551616' is no seed"),
        ("a.csv", "", "no row 1"),
        ("a.csv", "prompt,prompt\na kite,an owl\n", "more than one column prompt.*keep one of them"),
        ("a.csv", "prompt,seed\n", "no row 1: nothing follows the column names"),
        ("a.csv", "prompt;seed\na kite;1\n", "row 1: the fields 'prompt;seed' are of no known format"),
        ("a.csv", '"a kite\nat dusk"\nan owl\n', r"row 1: the fields 'a kite\\nat dusk' are of no known format"),
        ("a.csv", "prompt,seed\na kite,1\nan owl,two\n", "a.csv, row 2: 'two' is no seed"),
        ("a.csv", "prompt,seed\na kite,1\n,2\n", "a.csv, row 2: the prompt is empty"),
        ("a.csv", "prompt,seed\na kite\n", "row 1 does not have as many fields"),
        ("a.csv", "prompt,seed\na kite, red,1\n", "row 1 does not have as many fields"),
        ("a.csv", 'prompt,seed\na kite,1\n"an owl,2\n', r"unexpected end of data \(line 3\)"),
        ("a.csv", f"prompt\n{'kite ' * 50_000}\n", r"field larger than field limit .*\(line \d\)"),
        (
            "i2p.csv",
            I2P.format("sd_seed") + "a kite,hate,0,0,,5,7\n ,hate,0,0.0,https://x.test,5,7\n",
            "row 2: the prompt is empty",
        ),
        ("a.txt", "# ours\n\n", "from line 1 on, every line is blank or a # comment"),
        ("a.txt", b"a caf\xe9\n", "is not UTF-8 text: it breaks at byte 6"),
        ("a.csv", "prompt\na kite\n".encode("utf-16"), "is not UTF-8 text: it breaks at byte 1"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(write, name, content, message):
    file = write(name, content)
    with pytest.raises(UnreelError, match=message) as caught:
        read_prompts(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UnreelError, match=r"cannot read .*none.csv: No such file"):
        read_prompts(tmp_path / "none.csv")
    with pytest.raises(UnreelError, match=r"cannot read .*: Is a directory"):
        read_prompts(tmp_path)

"""Rows of fine-tuning: what of each form is trained, token by token, and which rows are refused."""

from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from train_cluster.supervised import sft_data
from train_cluster.supervised.sft_rows import Chat, Form, PlainText, PromptAndCompletion, Tokens, tokenise

SPECIAL = ("<bos>", "<eos>", "<|s|>", "<|e|>")
CHATML = (
    "{% for m in messages %}<|s|>{{ m.role[:1] }}~{{ m.content }}<|e|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>a~{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<|s|>{{ m.role[:1] }}~{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}"
    "<|e|>\n{% endfor %}{% if add_generation_prompt %}<|s|>a~{% endif %}"
)
"""As templates do that drop the reasoning of earlier turns."""


def a_tokenizer(chat_template: str = CHATML) -> PreTrainedTokenizerFast:
    """One token a character, and the special ones; plain text begins with <bos>."""
    alphabet = [*SPECIAL, "?", *"abcdefghijklmnopqrstuvwxyz:#~ \n"]
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(alphabet)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", unk_token="?", chat_template=chat_template
    )


TOKENIZER = a_tokenizer()
END_OF_TURN = TOKENIZER.convert_tokens_to_ids("<|e|>")


def shown(form: Form, row: dict[str, Any], *, tokenizer: Any = TOKENIZER, stops: tuple[int, ...] = (1, 3)) -> str:
    """The tokens, with [ and ] around what is trained."""
    (tokens,) = tokenise([form.mark(row)], tokenizer, stop_token_ids=stops)
    text, before = "", False
    for token, trained in zip(tokenizer.convert_ids_to_tokens(tokens.ids), tokens.trained, strict=True):
        text += ("[" if trained and not before else "]" if before and not trained else "") + token
        before = bool(trained)
    return text + "]" * before


def turns(*contents: str, system: bool = False) -> dict[str, Any]:
    roles = ["system"] * system + ["user", "assistant"] * 4
    return {"m": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


def test_of_a_prompt_and_a_completion_the_completion_and_its_end_are_trained() -> None:
    form = PromptAndCompletion(prompt_column="p", completion_column="c")
    assert shown(form, {"p": "ab", "c": "cd"}) == "<bos>ab[cd<eos>]"


def test_the_chat_template_goes_around_a_prompt() -> None:
    system = ({"role": "system", "content": "be"},)
    form = PromptAndCompletion(prompt_column="p", completion_column="c", templated=TOKENIZER, system=system)
    assert shown(form, {"p": "ab", "c": "cd"}) == "<|s|>s~be<|e|>\n<|s|>u~ab<|e|>\n<|s|>a~[cd<eos>]"


def test_of_a_chat_the_last_answer_is_trained_with_the_token_that_ends_it() -> None:
    form = Chat(column="m", tokenizer=TOKENIZER, train_on="last")
    expected = "<|s|>u~ab<|e|>\n<|s|>a~cd<|e|>\n<|s|>u~ef<|e|>\n<|s|>a~[gh<|e|>]\n"
    assert shown(form, turns("ab", "cd", "ef", "gh")) == expected
    assert shown(form, turns("ab", "cd", "ef")) == "<|s|>u~ab<|e|>\n<|s|>a~[cd<|e|>]\n"  # nobody answers the last


def test_of_a_chat_every_answer_can_be_trained() -> None:
    form = Chat(column="m", tokenizer=TOKENIZER, train_on="all")
    expected = "<|s|>u~ab<|e|>\n<|s|>a~[cd<|e|>]\n<|s|>u~ef<|e|>\n<|s|>a~[gh<|e|>]\n"
    assert shown(form, turns("ab", "cd", "ef", "gh")) == expected


def test_the_system_prompt_is_for_chats_that_bring_none() -> None:
    form = Chat(column="m", tokenizer=TOKENIZER, train_on="last", system=({"role": "system", "content": "be"},))
    assert shown(form, turns("ab", "cd")).startswith("<|s|>s~be<|e|>\n<|s|>u~ab")
    assert shown(form, turns("no", "ab", "cd", system=True)).startswith("<|s|>s~no<|e|>\n<|s|>u~ab")


def test_an_answer_that_no_stop_token_ends_is_trained_whole() -> None:
    form = Chat(column="m", tokenizer=TOKENIZER, train_on="last")
    assert shown(form, turns("ab", "cd"), stops=(1,)).endswith("[cd<|e|>\n]")


def test_a_text_is_trained_from_the_last_response_template_on() -> None:
    form = PlainText(column="t", response_template="#a:")
    assert shown(form, {"t": "#q:ab#a:c#q:de#a:fg"}) == "<bos>#q:ab#a:c#q:de[#a:fg<eos>]"


def test_tokens_never_reach_over_the_beginning_of_what_is_trained() -> None:
    """A tokenizer that joins letters must not join the prompt's last with the completion's first."""
    inner = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "<eos>": 3}, [("a", "b")]))
    joining = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    form = PromptAndCompletion(prompt_column="p", completion_column="c")
    assert shown(form, {"p": "ab", "c": "ab"}, tokenizer=joining, stops=(3,)) == "ab[ab<eos>]"
    assert shown(form, {"p": "a", "c": "b"}, tokenizer=joining, stops=(3,)) == "a[b<eos>]"


@pytest.mark.parametrize(
    ("form", "row", "complaint"),
    [
        (PromptAndCompletion(prompt_column="p", completion_column="c"), {"p": "a", "c": ""}, "has an empty c; give"),
        (PromptAndCompletion(prompt_column="p", completion_column="c"), {"p": "a", "c": 3}, "holds int in c, not text"),
        (PlainText(column="t", response_template="#a:"), {"t": "#q:ab"}, "holds no '#a:' in t; correct"),
        (PlainText(column="t", response_template="#a:"), {"t": "ab#a: "}, "has nothing after '#a:'"),
        (Chat(column="m", tokenizer=TOKENIZER, train_on="last"), turns("ab"), "has no turn of the assistant"),
        (Chat(column="m", tokenizer=TOKENIZER, train_on="last"), turns("ab", ""), "has an empty turn of the assistant"),
        (
            Chat(column="m", tokenizer=a_tokenizer(FORGETFUL), train_on="all"),
            turns("ab", "cd", "ef", "gh"),
            "earlier turns the template writes otherwise .* set sft.train_on=last",
        ),
        (
            Chat(column="m", tokenizer=a_tokenizer("{{ messages[-1].content }}{% if add_generation_prompt %}~{% endif %}"), train_on="last"),
            turns("ab", "cd"),
            "does not write after its generation prompt",
        ),
        (
            Chat(column="m", tokenizer=a_tokenizer("{{ raise_exception('no') }}"), train_on="last"),
            turns("ab", "cd"),
            "breaks the chat template",
        ),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_trained_says_why(form: Form, row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        form.mark(row)


def test_a_forgetful_template_serves_for_the_last_answer() -> None:
    form = Chat(column="m", tokenizer=a_tokenizer(FORGETFUL), train_on="last")
    assert shown(form, turns("ab", "cd", "ef", "gh")).endswith("<|s|>u~ef<|e|>\n<|s|>a~[gh<|e|>]\n")


def some(prompt: str, *trained: int) -> Tokens:
    ids = [*map(ord, prompt), *trained]
    return Tokens(ids=np.array(ids, np.int32), trained=np.array([False] * len(prompt) + [True] * len(trained)))


def test_what_is_cut_short_keeps_what_is_trained_or_nothing() -> None:
    tokens = Tokens(ids=np.arange(6, dtype=np.int32), trained=np.array([False, False, True, True, False, True]))
    assert tokens.prompt_tokens == 2
    for limit, length in ((6, 6), (5, 4), (4, 4), (3, 3)):
        kept = tokens.within(limit)
        assert kept is not None
        assert len(kept.ids) == length
        assert kept.trained[-1]
    assert tokens.within(2) is None


def test_the_split_keeps_prompts_together_and_follows_from_them_alone() -> None:
    examples = [some(f"p{i // 2}", i) for i in range(40)]
    trained, held = sft_data.split(examples, share=0.25, seed=3)
    assert len(held) == 10  # 5 of 20 prompts, two examples each
    assert sorted(trained + held) == list(range(40))
    assert {i // 2 for i in held}.isdisjoint(i // 2 for i in trained)
    order = np.random.default_rng(0).permutation(40).tolist()
    shuffled = [examples[i] for i in order]
    _, same = sft_data.split(shuffled, share=0.25, seed=3)
    assert {order[i] for i in same} == set(held)
    assert sft_data.split(examples, share=0.25, seed=4)[1] != held


def test_examples_come_back_from_their_file_as_they_were(tmp_path: Any) -> None:
    tokens = Tokens(ids=np.arange(6, dtype=np.int32), trained=np.array([False, False, True, True, False, True]))
    sft_data.save(tmp_path / "e", [tokens, some("abc", 1, 2)], [])
    (one, two), held_out = sft_data.load(tmp_path / "e")
    assert held_out == []
    assert (one.prompt.tolist(), one.response.tolist()) == ([0, 1], [2, 3, 4, 5])
    assert (one.response_mask.tolist(), one.trained, one.fed) == ([True, True, False, True], 3, 5)
    assert two.response.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"run\.root must be a folder that all ranks share"):
        sft_data.load(tmp_path / "none")

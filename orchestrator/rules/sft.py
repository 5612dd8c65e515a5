"""Rules about the rows of fine-tuning; see orchestrator.rules.every."""

from collections.abc import Callable, Iterator

from train_cluster.supervised.sft_config import SftConfig


def _rows_have_one_form(sft: SftConfig | None) -> Iterator[str]:
    if sft is None:
        return
    if sft.messages_column is not None and sft.text_column is not None:
        yield (
            f"sft.text_column = {sft.text_column}: a row is a chat (sft.messages_column = {sft.messages_column}) or one text; "
            "set one of the two to null"
        )
    if sft.text_column is not None and sft.response_template is None:
        yield (
            f"sft.text_column = {sft.text_column}: nothing says where in the text the answer begins; "
            "set sft.response_template, '### Answer:' say"
        )
    if sft.response_template is not None and sft.text_column is None:
        yield (
            f"sft.response_template = {sft.response_template!r}: only one text for both needs it; "
            "set sft.text_column, or sft.response_template=null"
        )
    if sft.train_on == "all" and sft.messages_column is None:
        yield "sft.train_on = all: only chats have several answers; set sft.messages_column, or sft.train_on=last"


def _held_out_once(sft: SftConfig | None) -> Iterator[str]:
    if sft is None:
        return
    if sft.held_out_share and sft.held_out_path is not None:
        yield (
            f"sft.held_out_share = {sft.held_out_share}: rows of their own are held out already "
            f"(sft.held_out_path = {sft.held_out_path}); set sft.held_out_share=0, or sft.held_out_path=null"
        )
    if sft.held_out_split is not None and sft.held_out_path is None:
        yield (
            f"sft.held_out_split = {sft.held_out_split}: is a split of sft.held_out_path, which is null; "
            f"set sft.held_out_path={sft.path}"
        )


RULES: tuple[Callable[..., Iterator[str]], ...] = (_rows_have_one_form, _held_out_once)

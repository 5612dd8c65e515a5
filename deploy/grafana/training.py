"""The training cluster: whether it learns soundly, on what, and where its time goes."""

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana import look
from deploy.grafana.gpus import gpus
from deploy.grafana.layout import Section, page
from deploy.grafana.panels import counts, lines, shares, stat
from deploy.grafana.promql import busy, largest, mean, or_zero, quantile, rate, share, total, useful
from deploy.grafana.training_rows import critic, evaluation

AGE, GAP = "headrace_train_staleness_steps", "headrace_train_logprob_gap_nats"


def training() -> Dashboard:
    sections = [
        Section(title="At a glance", panels=_glance()),
        Section(title="What is learnt", panels=_learnt()),
        Section(title="Is each update sound?", panels=_updates()),
        Section(title="Off-policy: how old, how far off", panels=_off_policy()),
        Section(title="Where the ranks' time goes", panels=_time()),
        Section(title="Evaluation during the run", panels=evaluation(), closed=True),
        Section(title="Critic (PPO)", panels=critic(), closed=True),
        Section(title="GPUs", panels=gpus("rank"), closed=True),
    ]
    return page("training", "Whether the ranks learn soundly, on what, and where their time goes.", sections)


def _glance() -> list[Any]:
    clipped = largest("headrace_train_grad_clipped_ratio")
    return [
        stat("Step", largest("headrace_train_step"), unit="none"),
        stat("Busy", busy("headrace_train_wall_seconds_total"), unit="percentunit", decimals=0),
        stat("Tokens/s", rate("headrace_train_tokens_total"), unit="si:tok/s"),
        stat(
            "Newest KL", largest("headrace_train_kl_per_response_nats"), unit="suffix: nats", decimals=2, limits=look.KL
        ),
        stat("Gradient norm", largest("headrace_train_grad_norm"), unit="none", decimals=3),
        stat("Grads clipped", clipped, unit="percentunit", decimals=0, limits=look.CLIPPED),
        stat("Oldest sample", largest("headrace_train_staleness_max_steps"), unit="suffix: steps", decimals=0),
        stat("Cut off", largest("headrace_train_truncated_ratio"), unit="percentunit", decimals=1),
    ]


def _learnt() -> list[Any]:
    reward = {"mean": largest("headrace_train_reward_mean"), "deviation": largest("headrace_train_reward_std")}
    components = {"{{component}}": largest("headrace_train_reward_component", by="component")}
    measures = {"{{measure}}": largest("headrace_train_reward_measure", by="measure")}
    length = {"mean": largest("headrace_train_response_length_tokens")}
    kl = {"per token": largest("headrace_train_kl_per_token_nats")}
    pays = {"correlation": largest("headrace_train_length_reward_correlation")}
    return [
        lines("Reward", reward, unit="none"),
        lines("Reward by component", components, unit="none"),
        lines("Measured beside rewards", measures, unit="none"),
        lines("Length of responses", length, unit="suffix: tokens", low=0),
        lines("Does length pay?", pays, unit="none", low=-1, high=1, limits=((0.2, look.RED),)),
        lines("KL a token", kl, unit="suffix: nats", low=0),
    ]


def _updates() -> list[Any]:
    held_back = {
        "tokens clipped": largest("headrace_train_clip_ratio"),
        "updates with a clipped gradient": largest("headrace_train_grad_clipped_ratio"),
        "tokens not trained": largest("headrace_train_masked_ratio"),
    }
    return [
        lines("Loss of the policy", {"loss": largest("headrace_train_loss")}, unit="none"),
        lines("Gradient norm before clipping", {"norm": largest("headrace_train_grad_norm")}, unit="none", low=0),
        shares("Shares that are held back", held_back, limits=look.CLIPPED),
        lines("Entropy", {"per token": largest("headrace_train_entropy_nats")}, unit="suffix: nats", low=0),
        lines("KL coefficient", {"in force": largest("headrace_train_kl_coefficient")}, unit="none", low=0),
        lines("Learning rate", {"in force": largest("headrace_train_learning_rate")}, unit="sci", low=0),
    ]


def _off_policy() -> list[Any]:
    age = {"median": quantile(0.5, AGE), "p99": quantile(0.99, AGE), "mean": mean(AGE)}
    versions = {"mean": mean("headrace_train_staleness_versions")}
    weights = {"mean weight": largest("headrace_train_correction_weight_mean")}
    effective = {
        "effective sample size": largest("headrace_train_correction_effective_ratio"),
        "weights at the cap": largest("headrace_train_correction_capped_ratio"),
    }
    gap = {"engine against trainer": largest(GAP)}
    compared = {
        "samples": largest("headrace_train_logprob_gap_sequences"),
        "their age in steps": largest("headrace_train_logprob_gap_staleness_steps"),
    }
    return [
        lines("Age of samples", age, unit="suffix: steps", low=0),
        lines("The same in versions", versions, unit="suffix: versions", low=0),
        lines("Importance weights", weights, unit="none"),
        shares("What weights leave of a batch", effective),
        lines("Gap of log-probabilities", gap, unit="suffix: nats", low=0),
        counts("What the gap is measured on", compared),
    ]


def _time() -> list[Any]:
    phases = {"{{phase}}": share("headrace_train_wall_seconds_total", "phase")}
    step = {"{{phase}}": mean("headrace_train_phase_seconds", by="phase")}
    stalls = {
        "copy for a version": mean("headrace_train_publish_stall_seconds"),
        "copy for a checkpoint": mean("headrace_train_checkpoint_stall_seconds"),
    }
    tokens = {"tokens": rate("headrace_train_tokens_total")}
    settled = {"responses": rate("headrace_train_sequences_total")}
    again = {"updates": rate("headrace_train_updates_total")}
    dropped = {"dropped": or_zero(total("headrace_train_dropped_groups_total"))}
    cpu = {"{{worker}}": useful("headrace_train_work_cpu_seconds_total", role="rank")}
    return [
        shares("Phases of the ranks", phases, stacked=True, colours=look.PHASES, width=16),
        lines("Tokens trained", tokens, unit="si:tok/s", low=0),
        lines("Parts of a step", step, unit="s", low=0),
        lines("What training waits for", stalls, unit="s", low=0),
        shares("Processor time in steps", cpu),
        lines("Responses trained", settled, unit="suffix: /s", low=0),
        lines("Updates of the policy", again, unit="suffix: /s", low=0),
        counts("Groups dropped for being late", dropped),
    ]

"""What a training trains on and from: examples and model, both following from the recipe and its seeds.

A checkpoint's code version is made of this file and of what it imports, the loop among it.
"""

import random
from pathlib import Path

import torch

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.errors import TrainingError
from ehr_assets.training.examples import Examples
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.loop import Training
from ehr_assets.training.node_times import read_node_times
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.start import load_tokenizer, prepare_model


def prepare(job: TrainingJob, rank: int, world: int) -> Training:
    """Examples and model.

    Raises:
        TrainingError: the corpus cannot be trained on, or the model cannot be had.
    """
    recipe = job.recipe
    seed_everything(recipe.seed)
    tokenizer = load_tokenizer(job.tokenizer)
    corpus = TokenCorpus(Path(job.token_corpus))
    _shares_the_batch(recipe, world)
    nodes = read_node_times(job.nodes, corpus, ("train", "tuning")) if recipe.data.cuts.nodes else None
    examples, tuning = (
        Examples(corpus, split, recipe.data, per_subject, nodes, vocab_size=len(tokenizer))
        for split, per_subject in (("train", recipe.data.examples_per_subject), ("tuning", 1))
    )
    if not examples.rows:
        raise TrainingError(
            f"None of the {examples.too_short} train records can be cut into context and continuation.",
            where=f"corpus {recipe.corpus}, data.min_context_tokens: {recipe.data.min_context_tokens}",
            do="Check the token corpus, or lower data.min_context_tokens.",
        )
    if not tuning.rows and (recipe.jepa or recipe.select == "best"):
        raise TrainingError(
            f"No tuning record can be cut ({tuning.too_short} are too short), and this recipe needs them: "
            + ("it selects by the tuning loss." if recipe.select == "best" else "collapse shows there."),
            where=f"corpus {recipe.corpus}, splits.tuning of its cohorts",
            do="Give the cohort a larger tuning split, or lower data.min_context_tokens.",
        )
    model = prepare_model(job, tokenizer, save_to=Path(job.out_dir) if rank == 0 else None)
    return Training(recipe, model, examples, tuning, rank, world)


def _shares_the_batch(recipe: RecipeSpec, world: int) -> None:
    try:
        recipe.engine.shared(recipe.batch, world)
    except ValueError as e:
        raise TrainingError(
            f"The processes cannot share a step: {e}.",
            where="batch, engine.num_processes",
            do="Start a number of processes that divides the batch.",
        ) from None


def seed_everything(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)

"""The training step of the reference implementation, as published, repaired, and on its way to ours."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ladder.average import LoopAverage
from benchmarks.ladder.plain_network import make_plain
from benchmarks.ladder.rungs import Recipe
from benchmarks.ladder.shards import DefaultAdamW
from benchmarks.ladder.timeline import Timeline
from soda_fast.build import build_model, build_schedule
from soda_fast.config import Config, warmup_images
from soda_fast.data import Batch, Dataset
from soda_fast.model import SODA
from soda_fast.parallel import Processes, parallelize
from soda_fast.training.assembly import unit_bytes
from soda_fast.training.optimizer import clip, learning_rate

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


class ReferenceStep:
    """Networks of plain operations and a loop in the reference's order.

    Args:
        config: of the run.
        dataset: tells how long the warm-up is.
        recipe: one with `own_networks` False.
        timeline: is told what ends when.
    """

    def __init__(
        self, config: Config, dataset: Dataset, recipe: Recipe, processes: Processes, timeline: Timeline
    ) -> None:
        self.config, self.recipe, self.processes, self.timeline = config, recipe, processes, timeline
        self.batch_images, self.images_seen = config.train.global_batch_images, 0
        self.warmup_images = warmup_images(config, len(dataset.train))
        self.alphabar = build_schedule(config).training_alphabar().to(processes.device)
        self.memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.published = recipe.reads == "loss"
        online, average = self._networks(recipe.compiled), self._networks(False)
        self.ema = LoopAverage(online, average, config.train.ema_beta, counters_on_device=self.published)
        self.optimizer = (DefaultAdamW if recipe.sharded else torch.optim.AdamW)(
            [
                {"params": list(online.encoder.parameters()), "lr": config.train.encoder_lr},
                {"params": list(online.decoder.parameters()), "lr": config.train.decoder_lr},
            ],
            betas=config.train.betas,
            weight_decay=config.train.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=recipe.precision == "fp16")
        self.model: nn.Module = online if recipe.sharded else self._replicated(online)
        self.loss = torch.zeros(())

    def step(self, parts: list[Batch]) -> None:
        """One optimisation step on one batch, which is not cut into parts."""
        (batch,) = parts
        self.model.train()
        self._set_learning_rates()
        self.optimizer.zero_grad()
        loss = self._loss(batch)
        self.timeline.end("forward")
        self.scaler.scale(loss).backward()
        self.timeline.end("backward")
        self._clip_and_step()
        self.timeline.end("optimizer")
        if self.published:
            self.processes.barrier()
            dist.all_reduce(loss.detach().clone())
            self.timeline.end("other")
        self.ema.update()
        self.timeline.end("ema")
        self.loss = loss.detach()
        if self.published:
            self.loss.item()
            self.timeline.end("other")
        self.images_seen += self.batch_images

    def _loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the predicted noise."""
        target, source = batch.target * 2 - 1, batch.source
        t, drop_mask = self._draw(len(target))
        noise = torch.randn_like(target)
        alphabar = self.alphabar[t][:, None, None, None]
        x_t = (alphabar.sqrt() * target + (1 - alphabar).sqrt() * noise).contiguous(memory_format=self.memory_format)
        source = source.contiguous(memory_format=self.memory_format)
        with self._autocast():
            return F.mse_loss(noise, self.model(source, x_t, t, drop_mask).float())

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Timesteps and which samples lose their condition; as published, drawn on the host and copied."""
        device, diffusion = self.processes.device, self.config.diffusion
        where = torch.device("cpu") if self.published else device
        t = torch.randint(1, diffusion.steps + 1, (n,), device=where)
        drop_mask = torch.bernoulli(torch.full((n,), diffusion.drop_probability, device=where))
        return t.to(device), drop_mask.to(device)

    def _clip_and_step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif norm.isfinite().item():
            self.optimizer.step()

    def _clip(self) -> Tensor:
        max_norm = self.config.train.clip_norm
        if self.recipe.sharded:
            return clip(self.optimizer.param_groups, max_norm)
        return nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def _set_learning_rates(self) -> None:
        train = self.config.train
        for group, base in zip(self.optimizer.param_groups, (train.encoder_lr, train.decoder_lr), strict=True):
            group["lr"] = learning_rate(base, self.images_seen, self.batch_images, self.warmup_images)

    def _autocast(self) -> AbstractContextManager[object]:
        # Sharded, FSDP2 holds the weights in bf16 and casts the inputs; there is nothing left to cast.
        if self.recipe.precision == "fp32" or self.recipe.sharded:
            return nullcontext()
        return torch.autocast(self.processes.device.type, _AUTOCAST[self.recipe.precision])

    def _networks(self, compiled: bool) -> SODA:
        model = make_plain(build_model(self.config), oihw=not self.recipe.channels_last)
        model.to(self.processes.device)
        if self.recipe.sharded:
            bf16 = self.recipe.precision == "bf16"
            methods = model.compiled_methods if compiled else ()
            mesh, unit = self.processes.mesh("fsdp"), unit_bytes(self.config, self.processes.world_size)
            parallelize(model, model.blocks, mesh, bf16=bf16, compiled=methods, unit_bytes=unit)
        return model

    def _replicated(self, model: SODA) -> nn.Module:
        if self.processes.device.type == "cpu":  # where SyncBatchNorm does not exist
            return nn.parallel.DistributedDataParallel(model)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, device_ids=[self.processes.local_rank])

"""One optimisation step: the model, its averages and the optimizer, and how a batch changes them."""

from functools import partial

import torch
from torch import Tensor

from soda_fast.build import build_schedule, initialise, view_rays
from soda_fast.config import Config, check_shard_processes, check_world_size, resolve_perf, section_drops
from soda_fast.data import Batch
from soda_fast.diffusion import denoising_loss, expected_prediction, loss_weights, noise_images
from soda_fast.parallel import Processes, gathering_modules
from soda_fast.spans import span
from soda_fast.training.assembly import spread_model
from soda_fast.training.ema import WeightAverage
from soda_fast.training.finite import BufferKeeper, FiniteGuard
from soda_fast.training.optimizer import build_optimizer, clip_and_step, learning_rate
from soda_fast.training.power_average import PowerAverages
from soda_fast.training.state import Progress, TrainState


class TrainStep:
    """The step that a training repeats, and all that it changes; knows neither images nor files.

    Making one and calling it are collectives.

    Args:
        config: of the run; data.mean and data.std may be missing.
        processes: this process among the run's.
        warmup_images: over which the learning rates rise.

    images_seen: of the steps made. loss_sum: 0-d float32, of the losses since somebody zeroed it; grad_norm: 0-d
    float32, of the last step; steps that did not count are in neither.

    Raises:
        ConfigError: the configuration does not fit the processes.
    """

    def __init__(self, config: Config, processes: Processes, warmup_images: int) -> None:
        check_world_size(config, processes.world_size)
        check_shard_processes(config, processes.world_size, processes.local_world_size)
        self.config, self.processes, self.warmup_images = config, processes, warmup_images
        self.batch_images = config.train.global_batch_images
        alphabar, diffusion = build_schedule(config).training_alphabar(), config.diffusion
        weights = loss_weights(diffusion.loss_weighting, diffusion.prediction, alphabar, diffusion.min_snr_gamma)
        self.alphabar = alphabar.to(processes.device)
        self.loss_weights = None if weights is None else weights.to(processes.device)
        self.section_drops = section_drops(config)
        perf = resolve_perf(config.perf, processes.device.type == "cuda")
        self.memory_format = torch.channels_last if perf.channels_last else torch.contiguous_format
        self.bf16 = perf.precision == "bf16"
        self.model = spread_model(config, processes, compiled=perf.compile is True)
        self._gathering = gathering_modules(self.model)
        initialise(self.model, config)
        average = spread_model(config, processes, compiled=False)
        average.load_state_dict(self.model.state_dict())
        self.ema = WeightAverage(self.model, average, config.train.ema_beta)
        self.power_averages = PowerAverages(self.model, config.train.ema_lengths)
        self.optimizer = build_optimizer(self.model, config.train)
        self.state = TrainState(self.model, self.ema.model, self.optimizer, self.power_averages.tensors())

        self.images_seen = 0
        self.compiled = False
        self.loss_sum = torch.zeros((), device=processes.device)
        self.grad_norm = torch.zeros((), device=processes.device)
        self.guard = FiniteGuard(processes.device, config.train.max_skipped_steps)
        self.buffers = BufferKeeper(self.model)

    def __call__(self, parts: list[Batch]) -> None:
        """One step on this process's share of a global batch, cut into accumulation parts.

        The first one compiles; if a later one would have to, that is an error: training would be slow unnoticed.
        """
        with torch.compiler.set_stance("fail_on_recompile" if self.compiled else "default"):
            self._step(parts)
        self.compiled = True
        self.images_seen += self.batch_images

    def losses(self, batch: Batch) -> Tensor:
        """The training loss of each target: (N * K,) float32."""
        diffusion = self.config.diffusion
        with span("noising"):
            x_t, noising = noise_images(
                batch.target,
                batch.target_position,
                self.alphabar,
                self.config.run.seed,
                diffusion.trained_timesteps(),
                diffusion.drop_probability,
                torch.bfloat16 if self.bf16 else torch.float32,
                self.memory_format,
                self.section_drops,
            )
            expected = expected_prediction(
                diffusion.prediction, batch.target, noising.noise, self.alphabar[noising.t]
            ).contiguous(memory_format=self.memory_format)
        source = batch.source.contiguous(memory_format=self.memory_format)
        predict = partial(
            self.model,
            source_rays=view_rays(self.config, batch.source_camera, self.config.data.source_size),
            target_rays=view_rays(self.config, batch.target_camera, self.config.data.target_size),
        )
        with span("loss"):
            return denoising_loss(predict, source, x_t, noising, expected, self.loss_weights)

    @property
    def progress(self) -> Progress:
        """Where the training stands, for a checkpoint. Steps skipped are those that the host has learnt of."""
        return Progress(self.images_seen, self.ema.steps, self.guard.skipped)

    def resume(self, progress: Progress) -> None:
        """Go on from there; the tensors of `state` have been loaded already."""
        self.images_seen = progress.images_seen
        self.ema.set_steps(progress.steps)
        self.buffers.keep()
        self.guard = FiniteGuard(self.processes.device, self.guard.allowed, progress.skipped_steps)

    def _step(self, parts: list[Batch]) -> None:
        if self.config.perf.compile_mode == "cuda-graphs":
            torch.compiler.cudagraph_mark_step_begin()
        if not self.model.training:  # to say it to every module again takes a millisecond
            self.model.train()
        self._set_learning_rates()
        losses: list[Tensor] = []
        for number, batch in enumerate(parts, start=1):
            for module in self._gathering:
                module.set_requires_gradient_sync(number == len(parts), recurse=False)
            # Equal shares: the mean over targets, parts and (in FSDP's reduction) processes is the global batch's.
            loss = self.losses(batch).mean() / len(parts)
            # 1, but NaN if the loss is not finite: a loss can overflow where its gradient does not.
            with span("backward"):
                loss.backward(1 + 0 * loss.detach())
            losses.append(loss.detach())
        with span("optimizer"):
            norm, skipped = clip_and_step(self.optimizer, self.config.train.clip_norm, self.guard, self.images_seen)
        self.buffers.settle(skipped)
        self.loss_sum += torch.where(skipped, 0.0, sum(losses))
        self.grad_norm = torch.where(skipped, self.grad_norm, norm)
        with span("ema"):
            self.ema.update()
            self.power_averages.update(self.ema.steps)

    def _set_learning_rates(self) -> None:
        train = self.config.train
        for group, base in zip(self.optimizer.param_groups, (train.encoder_lr, train.decoder_lr), strict=True):
            group["lr"] = learning_rate(base, self.images_seen, self.batch_images, self.warmup_images)

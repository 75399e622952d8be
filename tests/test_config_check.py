"""The check of the command line: every mistake in one line that names the way out, and nothing right refused."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from composed import composed_once  # noqa: F401 (a fixture)
from diffusers import SchedulerMixin
from omegaconf import OmegaConf

from gvr_lightning.config import folder
from gvr_lightning.config.check import check
from gvr_lightning.config.folder import conf_folder, group_options
from gvr_lightning.config.help import help_page
from gvr_lightning.config.sampling import sample_help
from gvr_lightning.config.schema import rule_of
from gvr_lightning.config.signatures import _of_object, locate
from gvr_lightning.config.source_code import from_source
from gvr_lightning.errors import UserError
from gvr_lightning.report.settings import report_help

GROUPS = group_options()
# as few command lines as have every option of every group
OF_CLASSES = ("augmix", "consistency", "consistency_target", "gce", "gvr_label_free", "label_smoothing")
OF_TASK = {  # what goes with one task only
    "classification": {"model": [m for m in GROUPS["model"] if "unet" not in m], "sampler": [], "extractor": []},
    "ddpm": {
        "model": [m for m in GROUPS["model"] if "unet" in m],
        "regularizer": [r for r in GROUPS["regularizer"] if r not in OF_CLASSES],
        "label_noise": ["none"],
        "mix": ["none"],
    },
}
PLACES = {  # what has to be given
    "data=image_folder": ["data.root=photos"],
    "data=huggingface": ["data.path=photos"],
    "label_noise=file": ["label_noise.path=a.pt"],
}
OPTIONS = [
    [f"task={task}"]
    + [
        text
        for group, options in (GROUPS | of_task).items()
        if group not in ("experiment", "task", "sweep") and options  # a sweep becomes overrides before
        for option in [f"{group}={options[i % len(options)]}"]
        for text in (option, *PLACES.get(option, ()))
    ]
    for task, of_task in OF_TASK.items()
    for i in range(max(map(len, GROUPS.values())))
]
ADAGRAD = "optimizer._target_=torch.optim.Adagrad"

# the command line, and what its one line says
MISTAKES: list[tuple[str | list[str], list[str]]] = [
    # generation
    ("task=ddpm model=resnet18", ["task=ddpm needs a network that gives images", "model=unet_small"]),
    ("model=unet_small", ["task=classification needs", "unet does not"]),
    ("sampler=ddpm", ["sampler: ", "add task=ddpm"]),
    ("extractor=inception", ["extractor: ", "add task=ddpm"]),
    ("task=ddpm sampler=dim", ["did you mean ddim?"]),
    ("task=ddpm sampler.steps=1001", ["sampler.steps=1001", "task.noise.timesteps=1000"]),
    ("task=ddpm sampler.step=10", ["did you mean sampler.steps?"]),
    ("task=ddpm sampler.spacing=even", ["one of trailing, linspace, leading"]),
    ("task=ddpm sampler._target_=diffusers.UniPCMultistep", ["cannot be imported", "UniPCMultistepScheduler?"]),
    ("task=ddpm +sampler.beta_start=0.1", ["the run passes this itself", "set task.noise"]),
    ("task=ddpm +sampler.foo=1", ["takes no argument 'foo'"]),
    ("task=ddpm task.noise.prediction=noise", ["one of epsilon, v, sample"]),
    ("task=ddpm task.noise.beta_range=[0.02,0.0001]", ["the first must not be larger"]),
    ("task=ddpm task.noise.beta_range=[0.02]", ["must have 2 entries"]),
    ("task=ddpm task.ema_decay=1.0", ["a number in [0, 1)"]),
    ("task=ddpm generation.grid=0", ["generation.grid=0", "a whole number >= 1"]),
    ("task=ddpm generation.image=3", ["there is no key generation.image"]),
    ("generation.grid=3", ["there is no key generation"]),
    ("task=ddpm data.mean=[]", ["data.mean=[]"]),
    ("task=ddpm data.mean=[0.4]", ["data.mean=[0.4]", "[-1, 1]"]),
    ("task=ddpm data.std=null", ["data.std=null", "[-1, 1]"]),
    # label noise
    ("label_noise.rate=0.4", ["label_noise.rate=0.4", "there is no label_noise", "by label_noise=..."]),
    ("label_noise=symmetric label_noise.rate=1.5", ["label_noise.rate=1.5", "a number in [0, 1]"]),
    ("label_noise=symmetric label_noise.map={1: 2}", ["label_noise.map"]),
    ("label_noise=symetric", ["did you mean symmetric?"]),
    ("task=ddpm label_noise=pairflip", ["task=ddpm learns without labels"]),
    # what is no override
    ("lr", ["lr: a setting is given as key=value"]),
    ("lr==", ["lr==", "not understood"]),
    ("lr=[1", ["lr=[1", "not understood"]),
    (["lr =1"], ["lr =1", "not understood"]),
    ([""], ["'': a setting is given as key=value"]),
    ("--foo", ["--foo", "no such flag"]),
    ("lr=${", ["lr=${"]),
    ("lr=range(1,0)", ["lr=range(1,0)", "over nothing"]),
    ("lr=range(0,1,0)", ["lr=range(0,1,0)", "zero"]),
    # groups and options
    ("regulariser=gvr", ["regulariser", "did you mean regularizer?"]),
    ("regularizer=gvrr", ["regularizer=gvrr", "did you mean gvr?", *GROUPS["regularizer"]]),
    ("regularizer=none,gvrr", ["regularizer=gvrr", "did you mean gvr?"]),
    ("regularizer=glob(x*)", ["regularizer=glob(x*)", "over nothing"]),
    ("regularizer=null", ["regularizer=null", "two_view"]),
    ("regularizer=[none,gvr]", ["regularizer=[none,gvr]", "-m regularizer=none,gvr"]),
    ("+regularizer=gvr", ["+regularizer=gvr", "without +"]),
    ("++regularizer=gvr", ["without ++"]),
    ("~regularizer", ["~regularizer", "needs a regularizer"]),
    ("optimizer@foo=adam", ["optimizer@foo=adam", "write optimizer=adam"]),
    ("foo@bar=1", ["foo@bar=1", "no config group"]),
    ("optimizer/foo=adam", ["optimizer/foo=adam", "did you mean optimizer?"]),
    ("experiment=gvr_cifar", ["experiment=gvr_cifar", "did you mean gvr_cifar10"]),
    ("experiment=null", ["leave experiment out"]),
    ("task=dpm", ["task=dpm", "did you mean ddpm?", "classification"]),
    # keys
    ("alpa=0.1", ["alpa=0.1", "did you mean alpha?"]),
    ("+alpa=0.1", ["alpa=0.1", "did you mean alpha?"]),
    ("++alpa=0.1", ["alpa=0.1", "did you mean alpha?"]),
    ("~alpa", ["~alpa", "did you mean alpha?"]),
    ("LR=0.1", ["did you mean lr?"]),
    ("momentum=0.8", ["momentum=0.8", "did you mean optimizer.momentum?"]),
    ("learnrate=1", ["learnrate", "batch_size", "epochs"]),
    ("optimizer.momentun=0.8", ["optimizer.momentun=0.8", "did you mean optimizer.momentum?"]),
    ("optimizer={momentun:0.8}", ["optimizer.momentun", "did you mean optimizer.momentum?"]),
    ("optimizer.dampening=0.1", ["add it with +optimizer.dampening=0.1"]),
    ("+optimizer.damping=0.1", ["optimizer.damping=0.1", "torch.optim.SGD", "did you mean optimizer.dampening?"]),
    ("optimizer=adam +optimizer.dampening=0.1", ["torch.optim.Adam takes no argument 'dampening'"]),
    ("optimizer=sgd,adam +optimizer.dampening=0.1", ["'dampening'", "(with optimizer=adam)"]),
    ("regularizer=none,gvr regularizer.penalty.subset=8", ["regularizer.penalty.subset=8", "(with regularizer=none)"]),
    ("+trainer.max_epoch=3", ["trainer.max_epoch=3", "did you mean trainer.max_epochs?"]),
    ("+trainer.gradient_clip_val=1", ["trainer.gradient_clip_val=1", "task.clip_norm"]),
    ("+model.num_classes=10", ["model.num_classes=10", "data"]),
    ("+regularizer.penalty.alpha=1", ["NoPenalty takes no argument 'alpha'", "it takes none"]),
    ("+task.label_smooth=0.1", ["ClassificationTask", "did you mean task.label_smoothing?"]),
    ("+task.clip=1", ["ClassificationTask", "task.clip"]),
    ("data.augmentation.hue=0.1", ["there is no key data.augmentation.hue without one of augmentation=none"]),
    ("augmentation=trivia", ["augmentation=trivia", "did you mean trivial?"]),
    ("augmentation=trivial data.augmentation.polic=rand", ["did you mean data.augmentation.policy?"]),
    ("data.augmentation.paddin=2", ["data.augmentation.paddin=2", "did you mean data.augmentation.padding?"]),
    ("data.transform.size=6", ["data.transform is null", "+data.transform.size=6"]),
    ("+data.foo=1", ["data.foo=1", "data.val_fraction"]),
    ("~optimizer.foo", ["~optimizer.foo", "optimizer.momentum"]),
    ("~alpha", ["~alpha", "cannot be removed"]),
    ("~optimizer._target_", ["cannot be removed"]),
    ("~trainer.max_epochs", ["~trainer.max_epochs", "${epochs}"]),
    ("model=resnet20 ~model.widths", ["~model.widths", "needs it"]),
    ("+lr=0.1", ["+lr=0.1", "lr=0.1 without +"]),
    ("lr.foo=1", ["lr is a value ("]),
    ("logger.folder=x", ["logger.folder=x"]),
    ("logger=wandb logger.proyect=x", ["did you mean logger.project?"]),
    ("logger=wandb logger.mode=off", ["logger.mode=off", "one of online, offline, disabled or null"]),
    ("logger=wandb logger.on_error=ask", ["logger.on_error=ask", "one of offline, stop"]),
    ("logger=wandb logger.tags=a", ["logger.tags=a", "a list of words"]),
    ("logger=wandb +logger.config=x", ["the run passes this itself", "the run's own"]),
    ("logger=wandb +logger.id=x", ["takes no argument 'id'"]),
    # Hydra's own
    ("hydra.run.dirr=x", ["hydra.run.dirr", "did you mean hydra.run.dir?"]),
    ("hydra/launcher=foo", ["hydra/launcher=foo", "basic"]),
    ("hydra.job.num=x", ["hydra.job.num=x", "Integer"]),
    ("hydra.run.dir=a,b", ["hydra.run.dir=a,b", "swept"]),
    ("hydra=1", ["hydra=1: Config group"]),
    # types and ranges
    ("lr=abc", ["lr=abc", "number > 0"]),
    ("lr=nan", ["lr=nan:", "finite"]),
    ("lr=0", ["lr=0:"]),
    ("lr=", ["lr=''"]),
    ("lr=true", ["lr=true"]),
    ("lr=[0.1,0.2]", ["lr=[0.1, 0.2]"]),
    ("alpha=inf", ["alpha=inf", "finite number >= 0"]),
    ("alpha=interval(-1,1)", ["alpha=-1"]),
    ("epochs=0", ["epochs=0", ">= 1"]),
    ("epochs=1.5", ["epochs=1.5", "whole number"]),
    ("epochs=1e3", ["epochs=1000.0", "whole number"]),
    (f"batch_size={'9' * 30}", ["batch_size=9", ">= 1"]),
    ("epochs=range(0,3)", ["epochs=0"]),
    ("batch_size=-3", ["batch_size=-3"]),
    ("seed=x", ["seed=x"]),
    ("seed=0,1,x", ["seed=x"]),
    ("seed=4294967296", ["seed=4294967296", "4294967295"]),
    ("name=3", ["name=3", "quote"]),
    ("resume=3", ["resume=3", "null"]),
    ("test_on=worst", ["test_on=worst", "last, best"]),
    ("lr=${alpa}", ["lr=${alpa}", "'alpa' not found"]),
    ("optimizer.lr=${task.clip_norm}", ["optimizer.lr=${task.clip_norm}", "null"]),
    ("optimizer.momentum=1", ["optimizer.momentum=1", "[0, 1)"]),
    ("optimizer.momentum=null", ["optimizer.momentum=null"]),
    ("optimizer.nesterov=yes", ["optimizer.nesterov=yes", "true or false"]),
    ("optimizer._partial_=false", ["optimizer._partial_=false", "true"]),
    ("optimizer=adam optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "2 entries"]),
    ("optimizer=adam optimizer.betas=[0.9,1]", ["optimizer.betas=[0.9, 1]", "[0, 1)"]),
    ("optimizer=adam optimizer.eps=0", ["optimizer.eps=0"]),
    ("scheduler.interval=batch", ["scheduler.interval=batch", "epoch, step"]),
    ("scheduler=warmup scheduler.warmup_steps=0", ["scheduler.warmup_steps=0"]),
    ("task.accumulate=0", ["task.accumulate=0"]),
    ("task.label_smoothing=1", ["task.label_smoothing=1"]),
    ("task.compile=1", ["task.compile=1", "true or false"]),
    ("data.val_fraction=1", ["data.val_fraction=1"]),
    ("data.max_train=1", ["data.max_train=1", "or null"]),
    ("data.augmentation=null", ["data.augmentation=null", "_target_"]),
    ("data.transform={size:3}", ["data.transform={size: 3}", "_target_"]),
    ("data=cifar10 data.mean=[0.5]", ["data.mean=[0.5]", "3 entries"]),
    ("data=image_folder data.root=2024", ["data.root=2024", "quote"]),
    ("data=image_folder data.root=x data.channels=2", ["data.channels=2", "1 or 3"]),
    ("model=resnet20 model.widths=[16,0]", ["model.widths=[16, 0]"]),
    ("regularizer=gvr regularizer.penalty.layers=foo", ["regularizer.penalty.layers=foo", "head, last_stage, all"]),
    ("regularizer=gvr regularizer.penalty.subset=0", ["regularizer.penalty.subset=0"]),
    ("trainer.precision=8", ["trainer.precision=8", "bf16-mixed"]),
    ("trainer.devices=0", ["trainer.devices=0", "auto"]),
    ("trainer.accelerator=gpus", ["trainer.accelerator=gpus", "gpu"]),
    ("+trainer.limit_train_batches=3", ["trainer.limit_train_batches=3", "set data.max_train"]),
    ("name=${hydra:nope}", ["name=${hydra:nope}: Hydra has no setting nope"]),
    ("name='${hydra:runtime.choices.nope}-a'", ["Hydra has no setting runtime.choices.nope"]),
    ("hydra.run.dir=../x", ["hydra.run.dir=../x", "must not climb"]),
    ("hydra.run.dir=", ["must not be empty"]),
    ("hydra.sweep.dir=a/../../b", ["must not climb"]),
    ("hydra/sweeper=optuna data.val_fraction=0", ["hydra/sweeper=optuna", "data.val_fraction=0"]),
    ("hydra/sweeper=optuna task=ddpm extractor=none", ["hydra/sweeper=optuna", "extractor=none"]),
    ("+trainer.overfit_batches=2", ["trainer.overfit_batches=2", "data.max_train and data.val_fraction=0"]),
    ("+trainer.check_val_every_n_epoch=0", ["trainer.check_val_every_n_epoch=0", "must be a whole number >= 1"]),
    ("+trainer.fast_dev_run=true", ["trainer.fast_dev_run=true", "set epochs=1"]),
    # targets
    (ADAGRAD, ["optimizer.momentum: torch.optim.Adagrad takes no argument 'momentum'", "with ~optimizer.momentum"]),
    ("optimizer._target_=torch.optim.Adagradd", ["torch.optim.Adagradd", "did you mean torch.optim.Adagrad?"]),
    ("optimizer._target_=nothing.There", ["optimizer._target_=nothing.There", "No module named 'nothing'"]),
    ("optimizer._target_=torch.optim", ["optimizer._target_=torch.optim", "called"]),
    ("optimizer._target_=5", ["optimizer._target_=5"]),
    # what is missing, and what excludes what
    ("data=image_folder", ["data.root is missing", "data.root=", "train/<class>"]),
    ("task.clip_norm=1 task.clip_value=1", ["task.clip_norm=1", "task.clip_value=1"]),
    ("regularizer=gvr regularizer.views=1", ["regularizer.views=1", "gvr_split"]),
    ("regularizer=gvr_published regularizer.views=1", ["regularizer.views=1"]),
    ("regularizer=gvr_split regularizer.views=2", ["regularizer.views=2", "must be 1"]),
    ("regularizer=gvr regularizer.penalty.layers=all task.compile=true", ["task.compile=true", "layers=all"]),
    ("regularizer=gvr regularizer.penalty.layers=[head.*] task.compile=true", ["task.compile=true", "[head.*]"]),
    ("regularizer=gvr_published task.compile=true", ["task.compile=true", "gvr_published"]),
    ("regularizer=gvr_per_sample regularizer.penalty.layers=all", ["regularizer.penalty.layers=all", "layers=head"]),
    ("regularizer=gvr_per_sample regularizer.penalty.subset=8", ["regularizer.penalty.subset=8", "shared=true"]),
    ("model.groups=5", ["model.groups=5", "model.width=32"]),
    ("model.width=32,36 model.groups=8,9", ["model.groups=9", "model.width=32"]),
    ("model=wide_resnet model.depth=29", ["model.depth=29", "28"]),
    ("optimizer.nesterov=true optimizer.momentum=0", ["optimizer.nesterov=true", "momentum"]),
    ("data.mean=[0.5,0.5] data.std=[0.5,0.5,0.5]", ["data.mean says 2", "data.std says 3"]),
    ("lr=???", ["lr is missing: add lr=<value>"]),
    ("data=image_folder data.root=a data.source.root=???", ["data.source.root is missing: add data.source.root="]),
    # what is in lists, and below keys that are free
    ("optimizer=adam optimizer.betas.2=0.8", ["no key optimizer.betas.2", "optimizer.betas.0, optimizer.betas.1"]),
    ("optimizer=adam optimizer.betas.1=1", ["optimizer.betas=[0.9, 1]"]),
    ("optimizer=adan optimizer.betas=[0.9,0.9]", ["optimizer.betas=[0.9, 0.9]", "3 entries"]),
    ("data=cifar10 data.std=[0.2,0.2]", ["data.std=[0.2, 0.2]", "3 entries"]),
    ("model=timm model.options.size=3", ["model.options is null", "+model.options.size=3"]),
    ("model=timm model.options={a:1} model.options.b=2", ["not in the configuration yet", "+model.options.b=2"]),
    # groups
    ("~experiment=gvr_cifar10", ["write ~experiment"]),
    ("task=ddpm sampler=ddim,null", ["sampler=null: to have none, leave sampler out"]),
    ("~logger", ["~logger: a run needs a logger: csv, tensorboard, wandb"]),
    # keys that are near none, or far from where they are
    ("width=3", ["did you mean model.width?"]),
    ("depht=16 model=wide_resnet", ["did you mean model.depth?"]),
    ("optimizer.foo.bar=1", ["there is no key optimizer.foo; there is optimizer.lr, optimizer.momentum"]),
    ("zzz=1", ["there is name, seed, epochs", "logger, task, trainer, experiment, sampler, extractor, sweep"]),
    ("data.source.roots=3", ["there is none at all"]),
    ("+a.b.c=1", ["a={b: {c: 1}}: there is no such key"]),
    (
        "+data.augmentation.brightness=1",
        ["it takes cutout, cutout_prob, erasing, flip, padding, same_crop, transforms, weak_first"],
    ),
    # what cannot go, and what its target wants
    ("optimizer.betas=[0.9,0.9] optimizer._target_=torch.optim.Adam", ["add it with +optimizer.betas=[0.9,0.9]"]),
    ("+task.accum=2", ["did you mean task.accumulate?"]),
    (
        "task=ddpm sampler._target_=diffusers.UniPCMultistepScheduler +sampler.solver_order=abc",
        ["sampler.solver_order=abc: must be int"],
    ),
    ("~lr", ["lr cannot be removed"]),
    ("~data.source", ["data.source cannot be removed"]),
    ("~optimizer.lr", ["optimizer.lr is ${lr}; set that, or optimizer.lr=<value>"]),
    ("~optimizer._partial_", ["cannot be removed"]),
    ("optimizer._partial_=null", ["optimizer._partial_=null"]),
    ("+optimizer.foreach=3", ["optimizer.foreach=3: must be bool or null"]),
    ("+optimizer.maximize=null", ["optimizer.maximize=null: must be bool"]),
    ("+trainer.max_steps=5", ["trainer.max_steps=5: has no meaning here; set epochs"]),
    ("+trainer.detect_anomaly=1.5", ["trainer.detect_anomaly=1.5: must be bool"]),
    ("model=resnet18 ~model.blocks", ["~model.blocks: gvr_lightning.models.resnet.resnet needs it"]),
    ("model._target_=gvr_lightning.models.resnet.resnet", ["model.groups", "remove it with ~model.groups"]),
    (
        "regularizer=gvr regularizer.penalty._target_=gvr_lightning.methods.consistency.Consistency",
        ["regularizer.penalty.layers", "takes no argument 'layers'"],
    ),
    (
        "+data.transform={_target_:torchvision.transforms.v2.CenterCrop,sise:6}",
        ["takes no argument 'sise'; did you mean data.transform.size?"],
    ),
    # every choice of a sweep
    ("lr=0.1,0.2,0.3,0", ["lr=0:"]),
    ("seed=1 alpha=0,1,-1,2", ["alpha=-1:"]),
    ("epochs=range(60,-1,-1)", ["epochs=0:"]),
    ("epochs=range(0,60)", ["epochs=0:"]),
    ("lr=interval(0.1,inf)", ["lr=inf:"]),
    ("lr=interval(0,1)", ["lr=0.0:"]),
    ("optimizer=sgd,adam,adamw optimizer.momentum=0.5", ["no key optimizer.momentum", "(with optimizer=adam)"]),
    ("seed=0,1 optimizer=adam,sgd scheduler=cosine,warmup scheduler.interval=step", ["(with", "scheduler=warmup"]),
    ("task=ddpm data=digits,mnist_5k model=unet_small,small_cnn", ["with data=digits, model=small_cnn"]),
    ("label_noise=none,symmetric,pairflip task=ddpm", ["leave label_noise out (with label_noise=symmetric)"]),
    ("logger=csv,wandb,foo", ["logger=foo"]),
]

# what a run passes itself: an override, and what its line names instead
PASSED = {
    "+model.image_shape=3": "it comes from the data",
    "+model.num_classes=3": "it comes from the data",
    "+task.num_classes=3": "it comes from the data",
    "+task.seed=3": "set seed",
    "+task.model=3": "choose model=...",
    "+task.penalty=3": "choose regularizer=...",
    "+task.wrap=3": "choose regularizer=...",
    "+task.optimizer=3": "choose optimizer=...",
    "+task.schedule=3": "choose scheduler=...",
    "+optimizer.params=3": "they come from the model",
    "regularizer=agr +regularizer.wrap.optimizer=3": "choose optimizer=...",
    "+scheduler.optimizer=3": "choose optimizer=...",
    "+scheduler.steps=3": "they come from epochs and batch_size",
    "+scheduler.epochs=3": "set epochs",
    "+logger.folder=3": "set hydra.run.dir",
    "+logger.step=3": "it comes from resume",
    "+logger.rows=3": "it comes from resume",
    "+logger.config=3": "it is the run's own",
    "+trainer.gradient_clip_val=3": "set task.clip_norm or task.clip_value",
    "+trainer.gradient_clip_algorithm=value": "set task.clip_norm or task.clip_value",
    "+trainer.accumulate_grad_batches=3": "set task.accumulate",
    "+trainer.callbacks=3": "the run has its own",
    "+trainer.logger=3": "choose logger=...",
    "+trainer.plugins=3": "the run has its own",
    "+trainer.default_root_dir=x": "set hydra.run.dir",
    "+trainer.num_sanity_val_steps=3": "the run has its own",
    "+trainer.enable_model_summary=true": "the run has its own",
    "+trainer.use_distributed_sampler=true": "the run has its own",
    "task=ddpm +extractor.data=3": "choose data=...",
    "task=ddpm +sampler.num_train_timesteps=3": "set task.noise",
    "task=ddpm +sampler.beta_start=0.1": "set task.noise",
    "task=ddpm +sampler.beta_end=0.1": "set task.noise",
    "task=ddpm +sampler.beta_schedule=linear": "set task.noise",
    "task=ddpm +sampler.prediction_type=sample": "set task.noise.prediction",
    "task=ddpm +sampler.timestep_spacing=leading": "set sampler.spacing",
}

VALID: list[str | list[str]] = [
    [],
    "regularizer=gvr alpha=0.01",
    "logger=wandb logger.mode=offline logger.group=study logger.tags=[a,b] logger.job_type=null logger.entity=me",
    "regularizer=none,two_view,gvr seed=0,1,2",
    "regularizer=glob(gvr*) optimizer=sgd,adamw lr=choice(0.1,0.2) seed=range(0,100000) alpha=interval(0.0,1.0)",
    "data=image_folder data.root=photos data.image_size=32 model=resnet20",
    "experiment=gvr_cifar100 regularizer=gvr model=resnet20 epochs=1",
    "experiment=glob(agr*)",
    "~experiment",
    "resume=outputs/digits-gvr/2030-01-01",
    ["resume='outputs/with space'"],
    "alpha=0 lr=1 epochs=100_000 name=a/b-1 test_on=best",
    "lr=${alpha} optimizer.weight_decay=${optimizer.lr}",
    "+optimizer.dampening=0.1 optimizer.dampening=0.2",
    "++optimizer.foreach=false",
    "+trainer.detect_anomaly=true +trainer.inference_mode=false",
    "+trainer.profiler=simple",
    "optimizer={momentum:0.8,nesterov:true}",
    "+optimizer={dampening:0.0}",
    "optimizer=adamw optimizer.betas.0=0.8",
    "~optimizer.momentum ~optimizer.nesterov optimizer._target_=torch.optim.Adagrad",
    f"{ADAGRAD} ~optimizer.momentum ~optimizer.nesterov +optimizer.lr_decay=0.1",
    "optimizer._target_=torch.optim.NAdam ~optimizer.momentum ~optimizer.nesterov +optimizer.betas=[0.9,0.99]",
    "model=timm model.name=vit_tiny_patch16_224 model.options={img_size:32,patch_size:4}",
    "model=timm +model.options.img_size=32",
    "model=wide_resnet model.depth=16 model.widen=4 model.dropout=0.3",
    "+data.transform._target_=torchvision.transforms.v2.RandomCrop +data.transform.size=8 +data.transform.padding=1",
    "data.eval_transform={_target_:torchvision.transforms.v2.CenterCrop,size:6}",
    "data=cifar10 data.mean=null data.std=null data.max_train=512 data.download=false data.root=/data",
    "regularizer=gvr regularizer.penalty.layers=[layer4.*,head.*] regularizer.penalty.subset=8 regularizer.views=3",
    "regularizer=gvr_last_stage task.compile=true task.accumulate=2 task.clip_norm=1.0",
    "regularizer=agr regularizer.wrap=null",
    "+regularizer.wrap._target_=gvr_lightning.methods.agr.AGR +regularizer.wrap._partial_=true",
    "trainer.precision=bf16-mixed trainer.devices=[0,1] trainer.accelerator=gpu",
    "trainer.precision=16 trainer.devices=auto trainer.deterministic=warn",
    "hydra.run.dir=somewhere hydra.sweep.subdir=${hydra.job.num} hydra.verbose=true",
    "hydra/launcher=basic +hydra.job.env_set.ABC=1",
    "task=ddpm regularizer=agr optimizer=adan",
    "task=ddpm sampler=ddpm extractor=none data=mnist_5k",
    "task=ddpm sampler._target_=diffusers.UniPCMultistepScheduler sampler.steps=20 +sampler.solver_order=3",
    "task=ddpm data=cifar10 data.mean=[0.5,0.5,0.5] sampler.eta=1 generation.score_every_n_epochs=10",
    "experiment=ddpm_cifar10_acprop data.root=/data extractor=efficientnet sampler.steps=10",
    "model=timm model.options={a:1} ~model.options.a",
    "label_noise=asymmetric label_noise.map={cat:dog} +label_noise.map.3=5",
    "+trainer.profiler=x +optimizer.foreach=null",
    "trainer._target_=lightning.pytorch.trainer.trainer.Trainer +trainer.detect_anomaly=true",
    "model._target_=gvr_lightning.models.resnet.resnet +model.widths=[8] +model.blocks=1 ~model.width ~model.groups",
    "regularizer=gvr ~regularizer.penalty.shared ~regularizer.penalty.split",
    "hydra.mode=MULTIRUN seed=0,1",
    "resume=${name}",
    "optimizer=adam optimizer._target_=timm.optim.Adan optimizer.betas=[0.98,0.92,0.99]",
    "label_noise=asymmetric label_noise.map={0:1}",
    "label_noise=asymmetric label_noise.map={cat:dog,dog:cat} ~label_noise.map.dog",
    "optimizer._target_=counting.counted_sgd",
    "optimizer.lr=0.5 lr=0.1,0.2",
]


def overrides(line: str | list[str]) -> list[str]:
    return line.split() if isinstance(line, str) else line


def line_of(line: str | list[str]) -> str:
    """What the check says about a command line."""
    with pytest.raises(UserError) as caught:
        check(overrides(line))
    return str(caught.value)


@pytest.mark.usefixtures("composed_once")
@pytest.mark.parametrize(("line", "fragments"), MISTAKES, ids=[str(line) for line, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(line: str | list[str], fragments: list[str]) -> None:
    said = line_of(line)
    assert "\n" not in said and len(said) < 900
    for fragment in fragments:
        assert fragment in said, said


@pytest.mark.usefixtures("composed_once")
@pytest.mark.parametrize("line", PASSED)
def test_what_the_run_passes_itself_is_refused(line: str) -> None:
    override = line.split()[-1].lstrip("+")
    assert line_of(line) == f"{override}: the run passes this itself; {PASSED[line]}"


@pytest.mark.usefixtures("composed_once")
@pytest.mark.parametrize("line", [*VALID, *OPTIONS], ids=str)
def test_what_is_right_passes(line: str | list[str]) -> None:
    check(overrides(line))


def test_a_sweep_needs_the_flag() -> None:
    with pytest.raises(UserError, match=r"seed=0,1: .* -m"):
        check(["seed=0,1"], multirun=False)
    check(["seed=0"], multirun=False)
    check(["seed=0,1", "hydra.mode=MULTIRUN"], multirun=False)
    check(["seed=0,1"])


def test_a_folder_of_ones_own_brings_options(tmp_path: Path) -> None:
    (tmp_path / "regularizer").mkdir()
    text = (conf_folder() / "regularizer" / "gvr.yaml").read_text()
    (tmp_path / "regularizer" / "mine.yaml").write_text(text.replace("layers: head", "layers: all"))
    path = f"hydra.searchpath=[file://{tmp_path}]"
    check([path, "regularizer=mine", "alpha=0.3"])
    check([path, "regularizer=mine", "experiment=sgd_cifar10"])
    assert "alpha=-1" in line_of([path, "regularizer=mine", "alpha=-1"])
    assert "task.compile=true" in line_of([path, "regularizer=mine", "task.compile=true"])
    assert "gvrr" in line_of([path, "regularizer=gvrr"])
    assert "no such option" in line_of("regularizer=mine")


def test_a_mistake_within_an_experiment_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user's own file, which Hydra merges whatever it holds; the configs of an installed package are in it."""
    shutil.copytree(conf_folder(), tmp_path / "conf")
    monkeypatch.setattr(folder, "PACKAGE", tmp_path)
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    for text, said in [
        ("data: {val_fractoin: 0.0}", "data.val_fraction?"),
        ("epochs: 0", "epochs=0"),
        ("optimizer: {momentum: 2}", "optimizer.momentum=2"),
        ("optimizer: {dampening: 0.1}", None),
    ]:
        mine.write_text(f"# @package _global_\n{text}\n")
        if said is None:
            check(["experiment=mine"])
        else:
            assert said in line_of("experiment=mine")


def test_every_null_and_every_missing_value_has_a_rule() -> None:
    """The default does not say what these may be."""
    for path in sorted(conf_folder().glob("*/*.yaml")):
        if path.parent.name == "experiment":
            continue
        text = path.read_text(encoding="utf-8")
        place = re.search(r"^# @package (\S+)", text)
        prefix = f"{place[1] if place else path.parent.name}.".replace("_global_.", "")
        for key, value in leaves(OmegaConf.to_container(OmegaConf.load(path))):
            assert value not in (None, "???") or rule_of(prefix + key) is not None, prefix + key


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(prefix[:-1], tree)]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}{key}.")]


def test_source_says_what_importing_says() -> None:
    """The arguments of every target of the configs; none of them takes an import."""
    trees = [OmegaConf.to_container(OmegaConf.load(path)) for path in conf_folder().rglob("*.yaml")]
    found = {value for tree in trees for key, value in leaves(tree) if key.rpartition(".")[2] == "_target_"}
    assert len(found) > 20
    for target in sorted(found):
        module, _, name = target.rpartition(".")
        read, imported = from_source(module, name), _of_object(locate(target))
        if read is None and issubclass(locate(target), SchedulerMixin):
            continue  # diffusers' decorators hide their arguments: read by importing, if a sampler's keys are added to
        assert read is not None, target
        assert (set(read.arguments), read.required, read.open) == (
            set(imported.arguments),
            imported.required,
            imported.open,
        ), target


def test_the_check_imports_little() -> None:
    """Also where it looks at what the targets take: what takes a second to load would be here."""
    line = "regularizer=none,gvr seed=0,1,2 lr=0.1 data=cifar10 +trainer.detect_anomaly=true +optimizer.dampening=0.1"
    code = (
        "import sys; before = set(sys.modules);"
        "from gvr_lightning.config.check import check; from gvr_lightning.config.help import help_page;"
        f"check({line.split()!r}); help_page();"
        "print(len(set(sys.modules) - before), *{name.partition('.')[0] for name in sys.modules})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lightning", "numpy", "pandas", "matplotlib", "timm", "diffusers", "sklearn"} & set(out)
    assert int(out[0]) < 500  # of Hydra and its parser, nearly all


def test_the_help_page_shows_every_group_option_and_key() -> None:
    page = help_page(width=100)
    for group, options in GROUPS.items():
        assert f"  {group}" in page
        for option in options:
            assert option in page
    chosen = [word for word in page.split() if word.startswith("*") and word != "*"]
    assert sorted(word.rstrip(",") for word in chosen) == [
        *("*classification", "*cosine", "*csv", "*default", "*digits", "*none", "*none", "*none", "*sgd", "*small_cnn")
    ]
    assert "\n  seed=0                        initialisation, order" in page
    rows = {" ".join(line.split()) for line in page.splitlines()}
    for row in (
        "name=<data>-<regularizer> the run's folder and the loggers' label (text)",
        "seed=0 initialisation, order, augmentation, subsets, dropout, diffusion",
        "epochs=30 passes over the training images (whole number >= 1)",
        "batch_size=128 samples an update, of all processes together (whole number >= 1)",
        "lr=0.02 learning rate (number > 0)",
        "alpha=0.01 weight of the regularizer's penalty (number >= 0)",
        "test_on=last the checkpoint that is tested: last, or best on validation (one of",
        "*digits scikit-learn's bundled handwritten digits: 1,797 grey images of 8x8 pixels",
        "gvr_split GVR at the cost of plain training: each view is a random half of the batch",
        "gvr_cifar100 CIFAR-100, ResNet-18, 200 epochs: the published GVR row",
        "*sgd torch's SGD with momentum 0.9",
    ):
        assert row in rows, row
    for fragment in ("regularizer=gvr alpha=0.01", "--cfg job", "summary.json", "resume=outputs/", "experiment=gvr_"):
        assert fragment in page


@pytest.mark.parametrize(("columns", "width"), [("40", 80), ("80", 80), ("93", 93), ("300", 100)])
def test_the_help_is_as_wide_as_the_terminal_and_loses_no_word(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for page in (help_page, sample_help, report_help):
        lines = page().splitlines()
        assert width - 8 < max(map(len, lines)) <= width, page
        monkeypatch.setenv("COLUMNS", "100")
        assert " ".join(lines).split() == page().split(), page
        monkeypatch.setenv("COLUMNS", columns)


def test_the_help_shows_options_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# two layers\n_target_: mine.net\n")
    rows = [" ".join(line.split()) for line in help_page([tmp_path]).splitlines()]
    assert "+mine two layers" in rows and "+mine two layers" not in help_page()
    assert help_page([tmp_path], 100).replace("    +mine                 two layers\n", "") == help_page(
        width=100
    ).replace("default)", "default, + of your own)")

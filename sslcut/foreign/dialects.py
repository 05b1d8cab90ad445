"""The dialects: one entry a project, in the order in which the registry tries them.

Sources: the projects' own code, read for the names that their checkpoints hold.
"""

from sslcut.foreign.dialect import CIFAR, HALF, Dialect, Part

_OWN_FC = Part("$", "fc.")
_OWN_HEAD = Part("$", "head.")

# naver/trex: the full checkpoints; the others are torchvision's names
TREX = Dialect(
    "t-ReX",
    marks=(r"^(?:model_ema\.)?encoder\.layer\d", r"^(?:model_ema\.)?head\.layers\.\d"),
    projectors=(Part(r"encoder\.$", "head.layers.", "gelu", unit_input=True),),
    ignored=(r"^memory\.", r"^clf\.", r"^model_ema\."),
)

# facebookresearch/dinov2: its own files (with a mask token) and the teachers that its training saves
DINOV2 = Dialect(
    "DINOv2",
    marks=(r"\bpatch_embed\.proj\.", r"\bmask_token$", r"\bls1\.gamma$"),
    published="teacher",
    projectors=(Part(r"backbone\.$", "dino_head.mlp.", "gelu"),),
    ignored=(r"\b(?:dino|ibot)_head\.", r"^(?:dino|ibot)[\w]*loss\."),
    options={"vit": {"positions": "offset"}, "registers": {"positions": "antialias"}},
    size=224,
)

# facebookresearch/dino: full checkpoints with student and teacher
DINO = Dialect(
    "DINO",
    marks=(r"^(?:student|teacher)\.backbone\.", r"^(?:student|teacher)\.head\.(?:mlp|last_layer)\."),
    published="teacher",
    projectors=(Part(r"backbone\.$", "head.mlp.", "gelu"),),
    ignored=(r"\.head\.last_layer\.", r"^dino_loss\."),
    options={"vit": {"positions": "offset"}},
)

# facebookresearch/moco-v3
MOCO_V3 = Dialect(
    "MoCo v3",
    marks=(r"^base_encoder\.",),
    projectors=(_OWN_FC, _OWN_HEAD),
    predictors=(Part(r"base_encoder\.$", "predictor."),),
    options={"vit_s": {"heads": 12}},
)

# facebookresearch/moco: v1 has one linear layer as its head, v2 two
MOCO = Dialect("MoCo", marks=(r"^encoder_q\.",), projectors=(_OWN_FC,), ignored=(r"^queue(?:_ptr)?$",))

# facebookresearch/simsiam
SIMSIAM = Dialect(
    "SimSiam",
    marks=(r"^encoder\.layer\d", r"^encoder\.fc\.\d", r"^predictor\.\d"),
    projectors=(_OWN_FC,),
    predictors=(Part(r"encoder\.$", "predictor."),),
)

# facebookresearch/vissl: `trunk` and `heads` of a Classy Vision state
VISSL = Dialect(
    "VISSL",
    marks=(r"(?:^|\.)(?:trunk\.|_feature_blocks\.)",),
    projectors=(Part(r"trunk\.(?:_feature_blocks\.)?$", "heads.0.projection_head."),),
    ignored=(r"^classy_state_dict\.", r"^base_model\.", r"(?:^|\.)heads\."),
)

# facebookresearch/swav
SWAV = Dialect(
    "SwAV",
    marks=(r"^projection_head\.\d", r"^prototypes\."),
    projectors=(Part("$", "projection_head."),),
    ignored=(r"^prototypes\.", r"^queue$"),
)

# lightly's benchmark of DINO, where `backbone` is the teacher
LIGHTLY_DINO = Dialect(
    "lightly's DINO",
    marks=(r"^student_backbone\.",),
    published="teacher",
    projectors=(
        Part(r"backbone\.$", "projection_head.layers.", "gelu"),
        Part(r"(student|teacher)_backbone\.$", r"\1_head.layers.", "gelu"),
    ),
    ignored=(r"_head\.last_layer\.", r"^(?:online_)?classifier\.", r"^criterion\."),
)

# lightly-ai/lightly: heads are `layers` of a ProjectionHead
LIGHTLY = Dialect(
    "lightly",
    marks=(r"projection_head(?:_momentum)?\.layers\.\d",),
    projectors=(Part(r"backbone(_momentum)?\.$", r"projection_head\1.layers."),),
    predictors=(Part(r"backbone\.$", "prediction_head.layers."),),
    ignored=(r"^(?:online_)?(?:linear_)?classifier\.", r"^criterion\.", r"^(?:prototypes|memory_bank|queues?)\b"),
)

# vturrisi/solo-learn: an online classifier beside backbone and projector; its CIFAR stem is padded by 2
SOLO_LEARN = Dialect(
    "solo-learn",
    marks=(r"^(?:backbone|encoder)\.", r"^(?:classifier|momentum_backbone|momentum_encoder)\."),
    projectors=(
        Part(r"(?:backbone|encoder)\.$", "projector."),
        Part(r"(?:backbone|encoder)\.$", "head.mlp.", "gelu"),
    ),
    predictors=(Part(r"^(?:backbone|encoder)\.$", "predictor."),),
    ignored=(r"^(?:momentum_)?classifier\.", r"^(?:momentum_)?(?:head|prototypes)\b", r"^queue", r"^\w*loss\w*\."),
    stem="cifar-pad2",
    small_statistics=CIFAR,
)

# facebookresearch/barlowtwins: the affine-free batch norm `bn` belongs to the loss
BARLOW_TWINS = Dialect(
    "Barlow Twins",
    marks=(r"^backbone\.", r"^projector\.\d", r"^bn\.running_mean$"),
    projectors=(Part(r"backbone\.$", "projector."),),
    ignored=(r"^bn\.",),
)

# facebookresearch/vicreg
VICREG = Dialect("VICReg", marks=(r"^backbone\.", r"^projector\.\d"), projectors=(Part(r"backbone\.$", "projector."),))

# huggingface/transformers: Dinov2Model, with or without registers
TRANSFORMERS_DINOV2 = Dialect(
    "transformers' DINOv2",
    marks=(r"\bembeddings\.patch_embeddings\.projection\.", r"\blayer_scale1\b"),
    options={"vit": {"positions": "plain"}, "registers": {"positions": "antialias"}},
    size=224,
)

# huggingface/transformers: ViTModel, whose processor scales to [-1, 1]
TRANSFORMERS_VIT = Dialect(
    "transformers' ViT",
    marks=(r"\bembeddings\.patch_embeddings\.projection\.", r"\blayernorm_before\b"),
    options={"vit": {"positions": "plain", "norm_eps": 1e-12}},
    statistics=HALF,
)

# huggingface/pytorch-image-models: vision transformers (its ResNets have torchvision's names)
TIMM = Dialect("timm", marks=(r"\bpatch_embed\.proj\.",))

# pytorch/vision, and all who keep its names
TORCHVISION = Dialect("torchvision", marks=(r"\blayer\d\.\d|\bencoder_layer_\d",))

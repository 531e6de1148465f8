"""Stage `unet`: the text encoder and the denoiser, trained together on the flat style."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .captions import END, START, TOKENS, caption
from .data import Pictures
from .profile import COLOURS, NOT_LEARNED, SHARES, Profile, Workshop
from .training import Plan, half_precision, train
from .vae import trained_vae

NO_CAPTION, NO_COLOUR = 0.1, 0.1  # shares of the captions that say nothing, or name the thing alone


@dataclass(frozen=True)
class Compositions:
    """Every learned thing on every colour. latents: (things, colours, c, h, w), of unit spread; captions: token ids."""

    latents: Tensor
    with_colour: Tensor  # (things, colours, TOKENS)
    without_colour: Tensor  # (things, TOKENS)
    empty: Tensor  # (TOKENS,)


def build_unet(profile: Profile) -> UNet2DConditionModel:
    levels = len(profile.unet_channels)
    return UNet2DConditionModel(
        sample_size=profile.picture_px // 8,
        in_channels=profile.latent_channels,
        out_channels=profile.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=profile.unet_channels,
        layers_per_block=profile.unet_layers,
        attention_head_dim=4,  # diffusers' name for the number of heads
        cross_attention_dim=profile.text_width,
        norm_num_groups=16,
    )


def build_text_encoder(profile: Profile, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=profile.text_width,
        intermediate_size=4 * profile.text_width,
        num_hidden_layers=profile.text_layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.convert_tokens_to_ids(START),
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        projection_dim=profile.text_width,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """v-prediction and zero terminal SNR (arXiv 2305.08891): learns backgrounds, which are low frequencies, at all."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def learned_things(pictures: Pictures, profile: Profile) -> list[int]:
    """Which things the model learns: of each group its share, spread evenly over the group's order."""
    chosen: list[int] = []
    for group, share in SHARES.items():
        members = [i for i, c in enumerate(pictures.concepts) if c.group == group and c.name not in NOT_LEARNED]
        wanted = min(len(members), round(share * profile.concepts))
        chosen += [members[i * len(members) // wanted] for i in range(wanted)]
    return chosen


def train_unet(shop: Workshop) -> nn.ModuleDict:
    profile, device = shop.profile, shop.device
    tokenizer = CLIPTokenizer.from_pretrained(shop.work / "tokenizer")
    torch.manual_seed(shop.seed)
    model = nn.ModuleDict({"unet": build_unet(profile), "text": build_text_encoder(profile, tokenizer)}).to(device)
    scheduler = build_scheduler()
    data = encode_compositions(shop)
    clean = scheduler.alphas_cumprod

    def loss(_: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        latents, tokens = draw_batch(data, profile.unet_batch, random)
        noise = torch.randn(latents.shape, generator=random)
        timesteps = torch.randint(0, len(clean), (len(latents),), generator=random)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        velocity = scheduler.get_velocity(latents, noise, timesteps)
        with half_precision(device):
            text = model["text"](tokens.to(device)).last_hidden_state
            predicted = model["unet"](noisy.to(device), timesteps.to(device), text).sample
        value = nn.functional.mse_loss(predicted.float(), velocity.to(device))
        return value, {"loss": value.item()}

    return train(
        "unet", model, loss, Plan(profile.unet_steps, profile.unet_rate, shop.seed, device), shop.work / "unet.pt"
    )


def draw_batch(data: Compositions, size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents (size, c, h, w) and token ids (size, TOKENS) of random compositions."""
    things, colours = data.latents.shape[:2]
    thing = torch.randint(0, things, (size,), generator=random)
    colour = torch.randint(0, colours, (size,), generator=random)
    chance = torch.rand(size, generator=random)[:, None]
    tokens = torch.where(chance < NO_CAPTION + NO_COLOUR, data.without_colour[thing], data.with_colour[thing, colour])
    return data.latents[thing, colour], torch.where(chance < NO_CAPTION, data.empty, tokens)


@torch.no_grad()
def encode_compositions(shop: Workshop) -> Compositions:
    pictures, vae = Pictures.load(shop.work), trained_vae(shop)
    tokenizer = CLIPTokenizer.from_pretrained(shop.work / "tokenizer")
    things = learned_things(pictures, shop.profile)
    latents = torch.stack([encode_on_every_colour(vae, pictures, i, shop.profile.picture_px) for i in things])

    def tokens(captions: list[str]) -> Tensor:
        kind = {"padding": "max_length", "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
        return tokenizer(captions, **kind).input_ids

    concepts = [pictures.concepts[i] for i in things]
    with_colour = torch.stack([tokens([caption(c, colour) for colour in COLOURS]) for c in concepts])
    return Compositions(latents, with_colour, tokens([caption(c, None) for c in concepts]), tokens([""])[0])


def encode_on_every_colour(vae: AutoencoderKL, pictures: Pictures, thing: int, px: int) -> Tensor:
    drawn = torch.stack([pictures.draw("flat", thing, colour, px) for colour in COLOURS.values()])
    return vae.encode(drawn.to(vae.device)).latent_dist.mode().cpu() * vae.config.scaling_factor

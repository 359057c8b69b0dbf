"""Trains the tiny demo model on a CPU, one stage at a time; README.md has the commands.

train.py autoencoder --minutes 10      PCA encoder and TAESD decoder
train.py model --minutes 30            flow matching at 256x256
train.py finetune --minutes 25         the same at mostly 512x512
"""

import argparse
from pathlib import Path

import environment
import torch


def train_autoencoder(folder: Path, minutes: float) -> None:
    """Fits the encoder, trains the decoder and writes the VAE file."""
    import autoencoder
    from loop import Budget, fit

    torch.manual_seed(0)
    linear_file = folder / "linear.safetensors"
    if not linear_file.exists():
        autoencoder.save_linear(linear_file, autoencoder.fit_encoder(torch.Generator().manual_seed(0)))
    linear = autoencoder.load_linear(linear_file)
    decoder = autoencoder.build_decoder()

    def loss(module, step, generator):
        value, psnr = autoencoder.decoder_loss(module, linear, 8, generator)
        return value, {"psnr": psnr.item()}

    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    average = fit(decoder, [optimizer], loss, Budget(minutes, warmup_steps=150), folder / "autoencoder.pt", decay=0.99)
    autoencoder.save_vae(environment.VAE_FILE, linear, average.state_dict())


def train_model(folder: Path, minutes: float, stage: str) -> None:
    """Trains the transformer at the stage's sizes, from where the stage before ended, and writes the model file."""
    import autoencoder
    import flow
    from loop import Budget, fit

    torch.manual_seed(0)
    linear = autoencoder.load_linear(folder / "linear.safetensors")
    model = flow.build_model()
    number = list(flow.SIZES).index(stage)
    if number:
        before = list(flow.SIZES)[number - 1]
        model.load_state_dict(torch.load(folder / f"{before}.pt", weights_only=True)["average"])
    sizes = flow.SIZES[stage]

    def loss(module, step, generator):
        return flow.flow_loss(module, linear, sizes[step % len(sizes)], generator), {}

    optimizers = flow.build_optimizers(model, (1.0, 1.0, 0.8)[number])
    average = fit(model, optimizers, loss, Budget(minutes, warmup_steps=50), folder / f"{stage}.pt", seed=number)
    flow.save_model(environment.MODEL_FILE, average)


def main() -> None:
    """Parses the command line and runs one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["autoencoder", "small", "model", "finetune"])
    parser.add_argument("--minutes", type=float, default=30, help="wall-clock budget of the stage")
    parser.add_argument("--folder", type=Path, default=Path("tiny_model_run"), help="checkpoints; stages resume")
    parser.add_argument("--comfyui", help="ComfyUI's folder (default: $COMFYUI_PATH)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the training loop has its own threads
    environment.use_comfyui(arguments.comfyui, training=True)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "autoencoder":
        train_autoencoder(arguments.folder, arguments.minutes)
    else:
        train_model(arguments.folder, arguments.minutes, arguments.stage)


if __name__ == "__main__":
    main()

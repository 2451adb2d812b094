"""`mera merge`: an adapter and its base become one checkpoint."""

import argparse


HELP = "merge an adapter into its base"
DESCRIPTION = """\
Merge an adapter, the folder `adapter` that a training with LoRA or QLoRA wrote, into its base model. The base is loaded
without quantisation, and the result is a checkpoint like any other. Says how far the merged model is from the adapted one,
over synthetic histories made of the model's own codes; after QLoRA also how far it is from the quantised model that was
trained.
"""
EPILOG = """\
examples
  mera merge runs/mera/adapter --output-dir runs/merged
  mera merge runs/mera/adapter --output-dir runs/merged --base models/biomistral --dtype float32
"""
TITLES = {"adapter": "the adapter on its base", "quantised": "the adapter on the quantised base"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("adapter", metavar="ADAPTER", help="folder `adapter` of a training, or a name on the Hub")
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="where the checkpoint goes")
    parser.add_argument(
        "--base", metavar="NAME", help="where the base of the adapter is now (default: what it was trained on)"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="precision of the checkpoint (default: as in training)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier merge wrote")


def run(args: argparse.Namespace) -> int:
    """Merge, and print how far the merged model is from the adapted one; return the exit status 0."""
    from mera_hf.training.merge_adapter import merge_adapter

    figures = merge_adapter(args.adapter, args.output_dir, args.base, args.dtype, args.overwrite)
    print(
        f"logits of the merged model in {figures['dtype']}, over {figures['histories']} synthetic histories, beside those of"
    )
    print(f"  {'':<36}{'largest':>10}{'mean':>10}{'same top 20':>13}{'in both':>9}")
    print(f"  {'':<36}{'difference':>10}{'':>10}{'in order':>13}{'top 20':>9}")
    for name, title in TITLES.items():
        if name in figures:
            row = figures[name]
            print(
                f"  {title:<36}{row['largest']:>10.2g}{row['mean']:>10.2g}{row['same_top20']:>13.1%}"
                f"{row['common_top20']:>9.1%}"
            )
    if figures["quantised_base"] and "quantised" not in figures:
        print("not compared with the quantised base: that needs pip install 'mera_hf[quant]'")
    print(f"\nwritten to {args.output_dir}")
    return 0

"""`ssast-edge devices`: the microphones of this machine."""

import dataclasses

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def devices(as_json: bool) -> None:
    """List the microphones that `listen --device` takes."""
    from ssast_edge.commands.output import print_json
    from ssast_edge.microphone import list_devices

    found = list_devices()
    for device in found:
        if as_json:
            print_json("device", dataclasses.asdict(device))
            continue
        channels = f"{device.channels} channel{'' if device.channels == 1 else 's'}"
        default = "  (default)" if device.is_default else ""
        click.echo(
            f"{device.index:>3}  {device.name}  {channels}, {device.sample_rate:g} Hz{default}"
        )
    if not found:
        click.echo(
            "no microphone: nothing that records is connected, or the user may not use it", err=True
        )

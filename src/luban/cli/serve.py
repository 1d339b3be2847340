"""`luban serve`: bundles behind REST and gRPC."""

from __future__ import annotations

import sys

import click

from luban.cli import options
from luban.cli.show import Show


@click.command("serve")
@click.argument("models", nargs=-1, metavar="[NAME=ALIAS|FOLDER]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes any free one.")
@click.option("--admin-port", type=click.IntRange(0, 65535), default=9464, show_default=True,
              help="For /metrics, on 127.0.0.1 alone; 0 takes any free one.")  # fmt: skip
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Answer gRPC there too; 0 takes any free one.")
@click.option("--embeddings", is_flag=True, help="Give vectors of texts too, at /v1/embeddings.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes on the port.")
@click.option("--memory", type=click.IntRange(min=0), default=0, metavar="MB",
              help="Of models that are open at once in a process; 0 is no limit.")  # fmt: skip
@click.option("--graphs", metavar="FOLDER|none", envvar="LUBAN_GRAPHS",
              help="Where graphs are kept that were made ready for this machine; none keeps none. "
              "[default: $LUBAN_HOME/graphs, else ~/.cache/luban/graphs]")  # fmt: skip
@click.option("--queue", type=click.IntRange(min=1), default=64, show_default=True,
              help="Requests inside at once; one more is told to come later.")  # fmt: skip
@click.option("--request-s", type=click.FloatRange(min=0.01), default=5.0, show_default=True,
              help="Seconds within which a request is answered.")  # fmt: skip
@click.option("--drain-s", type=click.FloatRange(min=0), default=20.0, show_default=True,
              help="Seconds for those who are inside when it is told to stop.")  # fmt: skip
@click.option("--log-requests", type=click.FloatRange(0, 1), default=0.0, metavar="SHARE",
              help="Log a line for this share of the requests, without their texts; 1 is all.")  # fmt: skip
@click.option("--traces", default="", metavar="URL",
              help="Send OpenTelemetry traces to this collector, e.g. http://127.0.0.1:4318.")  # fmt: skip
@click.option("--trace-share", type=click.FloatRange(0, 1), default=1.0, show_default=True, metavar="SHARE",
              help="Of the requests that are traced, where the caller has not decided it.")  # fmt: skip
@click.option("--feedback-days", type=click.FloatRange(min=0), default=365.0, show_default=True,
              help="For how long what callers say of answers is kept; 0 until it is deleted.")  # fmt: skip
@click.option("--feedback-raw", is_flag=True,
              help="Keep the texts of feedback with their personal data, where you have the right to.")  # fmt: skip
@click.option("--names-by", multiple=True, metavar="BUNDLE",
              help="A bundle that tags names: what it finds in feedback is masked, too.")  # fmt: skip
@click.option("--cert", type=click.Path(exists=True, dir_okay=False), help="The TLS certificate's chain, PEM.")
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="The certificate's key, PEM.")
@click.option("--everybody", is_flag=True,
              help="Serve on a --host that others reach though there is no key yet.")  # fmt: skip
@click.option("--ray", is_flag=True, help="On Ray: the cluster that RAY_ADDRESS names, or one of this machine's own.")
@click.option("--min-replicas", type=click.IntRange(min=1), default=1, show_default=True, help="With --ray.")
@click.option("--max-replicas", type=click.IntRange(min=1), default=4, show_default=True, help="With --ray.")
@click.option("--target", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True,
              help="With --ray: requests inside a replica, above which there will be more of them.")  # fmt: skip
@options.registry
@options.threads
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    models: tuple[str, ...],
    host: str,
    port: int,
    admin_port: int,
    grpc_port: int | None,
    embeddings: bool,
    workers: int,
    memory: int,
    graphs: str | None,
    queue: int,
    request_s: float,
    drain_s: float,
    log_requests: float,
    traces: str,
    trace_share: float,
    feedback_days: float,
    feedback_raw: bool,
    names_by: tuple[str, ...],
    cert: str | None,
    key: str | None,
    everybody: bool,
    ray: bool,
    min_replicas: int,
    max_replicas: int,
    target: float,
    registry: str | None,
    threads: int,
) -> int:
    """Answer over HTTP, and gRPC, until told to stop, with one version or many.

    Each of MODELS is bank=champion, bank=3, or a bundle's folder; without any it is the newest bundle under ./runs.
    An alias that is moved is noticed within seconds, and the new version takes over between two requests. SIGTERM
    lets those who are inside finish. What happens is logged to stderr: a JSON line an event, and short lines for a
    person where stderr is a terminal, unless --json is given.
    """
    from luban.serve.limits import Limits
    from luban.serve.telemetry import log_to_stderr
    from luban.stages import serving

    if ray and grpc_port is not None:
        ctx.fail("--grpc-port does not go with --ray, which answers over HTTP alone")
    if feedback_raw and names_by:
        ctx.fail("--names-by says what is to be masked: it does not go with --feedback-raw")
    if (cert is None) != (key is None):
        ctx.fail("--cert goes with --key")
    limits = Limits(queue=queue, request_s=request_s, drain_s=drain_s)
    wanted = serving.settings(
        models, registry=registry, host=host, port=port, admin_port=admin_port, grpc_port=grpc_port,
        embeddings=embeddings, workers=workers, threads=threads, memory_bytes=memory << 20, graphs=graphs,
        cert=cert or "", key=key or "", everybody=everybody, limits=limits,
        log_json=show.json or not sys.stderr.isatty(),
        log_share=log_requests, traces=traces, trace_share=trace_share,
        feedback_days=feedback_days, feedback_raw=feedback_raw, names_by=names_by,
    )  # fmt: skip
    log_to_stderr(wanted.log_json)
    if not ray:
        return serving.serve(wanted)
    from luban.serve.ray import Scaling

    if min_replicas > max_replicas:
        ctx.fail("--min-replicas is more than --max-replicas")
    return serving.serve_on_ray(wanted, Scaling(least=min_replicas, most=max_replicas, target=target))

"""What a process tells about itself while it runs: the page for Prometheus, spans for OpenTelemetry,
the lag of its loop.
"""

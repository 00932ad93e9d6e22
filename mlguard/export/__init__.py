"""What a service's metrics are looked at with: a Grafana dashboard, and recording and alert rules for Prometheus.

Both are written out as files, from the one registry of metrics, so that no panel and no alert can name a metric or a
label that there is not. `mlguard export` is the command.
"""

"""Where figures go: one module for each system, loaded only where a service asks for it.

`prometheus` answers a scrape. What they all read is `mlguard.monitor.readings`; what they call it is declared once, in
`mlguard.monitor.metrics`.
"""

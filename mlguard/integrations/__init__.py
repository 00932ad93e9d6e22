"""Where models run: mlguard inside of the frameworks that call guarded functions.

Guarded functions are plain functions and need none of this to work in a framework. What a framework asks for beyond
that, such as a status for an error, has a room of its own here, loaded only when it is imported.
"""

import sys
import sysconfig

from setuptools import Extension, setup

if sys.platform != "linux":
    raise SystemExit("smcsock needs Linux: SMC is a protocol of its kernel")

# A free-threaded CPython has no limited API: it gets a wheel of its own.
limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            name,
            sources=[source],
            define_macros=[("Py_LIMITED_API", "0x030b0000")] if limited_api else [],
            py_limited_api=limited_api,
        )
        for name, source in (
            ("smcsock._smcsock", "src/_smcsock.c"),
            ("smcsock._native._syscalls", "src/_native.c"),
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if limited_api else {},
)

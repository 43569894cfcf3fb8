"""A program of NVIDIA's Python bindings: rmsnorm of a few rows, against the same in Python; then a trap. python.sh runs it."""

import ctypes
import math
import sys

from cuda.bindings import driver

ROWS, WIDTH, EPS = 3, 97, 1e-5


def ask(answer):
    """The results of a call that succeeded."""
    status, *results = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        raise RuntimeError(f"{status.name}: {text.decode()}")
    return results[0] if len(results) == 1 else results


def rmsnorm(function, stream, x, weight, y_length):
    """What the kernel makes of x and weight."""
    on_device = []
    for numbers in (x, weight):
        address = ask(driver.cuMemAllocAsync(4 * len(numbers), stream))
        ask(driver.cuMemcpyHtoDAsync(address, (ctypes.c_float * len(numbers))(*numbers), 4 * len(numbers), stream))
        on_device.append(address)
    y, rstd = (ask(driver.cuMemAllocAsync(4 * count, stream)) for count in (y_length, ROWS))
    values = (y, rstd, *on_device, WIDTH, EPS)
    kinds = (None, None, None, None, ctypes.c_int, ctypes.c_float)
    ask(driver.cuLaunchKernel(function, ROWS, 1, 1, 128, 1, 1, 0, stream, (values, kinds), 0))
    got = (ctypes.c_float * y_length)()
    ask(driver.cuMemcpyDtoHAsync(got, y, 4 * y_length, stream))
    ask(driver.cuStreamSynchronize(stream))
    for address in (y, rstd, *on_device):
        ask(driver.cuMemFreeAsync(address, stream))
    return list(got)


def main(ptx):
    ask(driver.cuInit(0))
    device = ask(driver.cuDeviceGet(0))
    name = ask(driver.cuDeviceGetName(64, device)).split(b"\0")[0].decode()
    assert name.startswith("PTX emulator"), name
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    assert ask(driver.cuDeviceGetAttribute(attribute, device)) == 8
    context = ask(driver.cuDevicePrimaryCtxRetain(device))
    ask(driver.cuCtxSetCurrent(context))
    stream = ask(driver.cuStreamCreate(0))
    with open(ptx, "rb") as file:
        module = ask(driver.cuModuleLoadData(file.read() + b"\0"))
    function = ask(driver.cuModuleGetFunction(module, b"rmsnorm_fwd_f32"))

    x = [math.sin(1.0 + i) for i in range(ROWS * WIDTH)]
    weight = [math.cos(i) for i in range(WIDTH)]
    got = rmsnorm(function, stream, x, weight, ROWS * WIDTH)
    for row in range(ROWS):
        line = x[row * WIDTH : (row + 1) * WIDTH]
        rstd = 1.0 / math.sqrt(sum(value * value for value in line) / WIDTH + EPS)
        for i, value in enumerate(line):
            right = value * rstd * weight[i]
            assert abs(got[row * WIDTH + i] - right) <= 1e-6 * max(abs(right), 1e-2), (row, i, got[row * WIDTH + i], right)

    try:
        rmsnorm(function, stream, x, weight, ROWS * WIDTH - 1)
    except RuntimeError as error:
        assert "CUDA_ERROR_ILLEGAL_ADDRESS" in str(error) and "rmsnorm_fwd_f32: " in str(error), error
        assert "PTX line" in str(error) and "block (2, 0, 0), warp 3, lane 0" in str(error), error
    else:
        raise AssertionError("a buffer that is too short went unnoticed")
    ask(driver.cuDevicePrimaryCtxRelease(device))
    print(f"cuda-bindings on {name}: rmsnorm matches, and a trap says where")


main(sys.argv[1])

// The custom operators for onnxruntime's CUDA execution provider, registered for that of the CPU: so that an onnxruntime
// without a GPU calls them, with tensors in the host's memory, and a driver that runs kernels there launches them.

#include <array>
#include <optional>
#include <string>

#include "onnxruntime_cuda.h"

namespace {

using namespace mmfs;

constexpr std::size_t NUM_FUNCTIONS = 412;  // of version 24
constexpr std::size_t GET_STREAM = 193;

std::optional<cuda::Driver> opened;
ort::Api* original = nullptr;

struct Host {
    static cuda::Driver& driver() { return opened.value(); }

    static cuda::Image image(const std::string& kernel, int major, int minor) {
        return {kernel, [&kernel, major, minor] {
                    return "code of " + kernel + " for " + std::to_string(major) + "." + std::to_string(minor);
                }};
    }
};

// The CPU has no streams, so that of a GPU is made up after onnxruntime was asked.
ort::Status* stream_77(const ort::KernelContext* context, void** stream) {
    if (ort::Status* status = ort::KernelContext_GetGPUComputeStream::call(original, context, stream)) {
        return status;
    }
    *stream = reinterpret_cast<void*>(77);
    return nullptr;
}

ort::Api* with_a_stream(ort::Api* api) {
    using AnyFunction = void (*)();
    static std::array<AnyFunction, NUM_FUNCTIONS> functions;
    original = api;
    std::copy_n(api, NUM_FUNCTIONS, functions.begin());
    functions[GET_STREAM] = reinterpret_cast<AnyFunction>(&stream_77);
    return functions.data();
}

struct Kernel final : CudaKernel<Host> {
    Kernel(const NodeKind& kind, ort::Api* api, const ort::KernelInfo* info)
        : CudaKernel<Host>(kind, with_a_stream(api), info) {}
};

}  // namespace

extern "C" {

// Null, or what is wrong.
__attribute__((visibility("default"))) const char* use_driver(const char* library) {
    static std::string message;
    try {
        opened.emplace(library);
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
    return nullptr;
}

__attribute__((visibility("default"))) ort::Status* RegisterCustomOps(
    ort::SessionOptions* options, const ort::ApiBase* base
) {
    ort::Api* api = base->get_api(ort::API_VERSION);
    return guarded(api, [&] {
        static Domain* domain = nullptr;
        if (domain == nullptr) {
            domain = new Domain(api);
            domain->add<Kernel>("CPUExecutionProvider");
        }
        call<ort::AddCustomOpDomain>(api, options, domain->get());
    });
}
}

// The ONNX nodes of domain "mmfs" as custom operators of onnxruntime: onnxruntime_cpu.h on its CPU execution provider,
// onnxruntime_cuda.h on that for CUDA. mmfs/onnxruntime.py says where the library lies, and calls it.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu_processor.h"
#include "onnxruntime_cpu.h"
#include "onnxruntime_cuda.h"

namespace mmfs {
namespace {

// Machine code of a kernel for GPUs of a compute capability. If there is none, a sentence, and *num_bytes is -1.
using MachineCodeOf = const char* (*)(const char* kernel, int32_t major, int32_t minor, int64_t* num_bytes);

std::atomic<MachineCodeOf> machine_code_of{nullptr};

struct ThisMachine {
    static cuda::Driver& driver() { return cuda::driver(); }

    static cuda::Image image(const std::string& kernel, int major, int minor) {
        return {kernel, [&kernel, major, minor] {
                    int64_t num_bytes = 0;
                    const char* found = machine_code_of.load()(kernel.c_str(), major, minor, &num_bytes);
                    if (num_bytes < 0) {
                        throw std::runtime_error(found);
                    }
                    return std::string(found, static_cast<std::size_t>(num_bytes));
                }};
    }
};

struct Known {
    ort::Api* api;
    std::unique_ptr<Domain> domain;
    bool has_cuda;
};

ort::CustomOpDomain* domain_of(ort::Api* api) {
    static std::mutex mutex;
    static auto* all = new std::vector<Known>();
    const std::lock_guard<std::mutex> lock(mutex);
    Known* known = nullptr;
    for (Known& one : *all) {
        if (one.api == api) {
            known = &one;
        }
    }
    if (known == nullptr) {
        all->push_back({api, std::make_unique<Domain>(api), false});
        known = &all->back();
        known->domain->add<CpuKernel>("CPUExecutionProvider");
    }
    if (machine_code_of.load() != nullptr && !known->has_cuda) {
        known->domain->add<CudaKernel<ThisMachine>>("CUDAExecutionProvider");
        known->has_cuda = true;
    }
    return known->domain->get();
}

const char* why_not_this_processor() {
#if defined(__AVX512VL__)
    if (!mmfs::has_avx512()) {
        return "This processor has no AVX-512, for which this library of mmfs was built. Register the one that "
               "mmfs.onnxruntime.library_path() names here.";
    }
#elif defined(__AVX2__)
    if (!mmfs::has_avx2()) {
        return "This processor has no AVX2, for which this library of mmfs was built. Register the portable one, which "
               "mmfs.onnxruntime.library_path() names here.";
    }
#endif
    return nullptr;
}

}  // namespace
}  // namespace mmfs

// From the next registration on, nodes on the CUDA execution provider are computed with kernels from here.
extern "C" __attribute__((visibility("default"))) void mmfs_onnxruntime_use_cuda(mmfs::MachineCodeOf machine_code_of) {
    mmfs::machine_code_of = machine_code_of;
}

// onnxruntime finds it by this name: SessionOptions.register_custom_ops_library.
extern "C" __attribute__((visibility("default"))) mmfs::ort::Status* RegisterCustomOps(
    mmfs::ort::SessionOptions* options, const mmfs::ort::ApiBase* base
) {
    using namespace mmfs;
    ort::Api* api = base->get_api(ort::API_VERSION);
    if (api == nullptr) {
        const std::string sentence =
            std::string("The custom operators of mmfs need onnxruntime 1.24 or newer; this is ") +
            base->get_version_string() + ". Upgrade it, or load the model without them: its nodes have bodies.";
        return ort::CreateStatus::call(base->get_api(1), ort::NOT_IMPLEMENTED, sentence.c_str());
    }
    if (const char* reason = why_not_this_processor()) {
        return ort::CreateStatus::call(api, ort::NOT_IMPLEMENTED, reason);
    }
    return guarded(api, [&] { call<ort::AddCustomOpDomain>(api, options, domain_of(api)); });
}

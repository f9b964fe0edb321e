// Functions of mmfs/kernels/cuda_*.cpp and plugins_trt/csrc for ctypes. An exception comes back as "error: " and its sentence.

#include <cstring>
#include <functional>
#include <optional>

#include "cuda_driver.h"
#include "cuda_launch.h"
#include "machine_code.h"

using namespace mmfs::cuda;

namespace {

std::string answer;

const char* answered(const std::function<std::string()>& work) {
    try {
        answer = work();
    } catch (const std::exception& error) {
        answer = std::string("error: ") + error.what();
    }
    return answer.c_str();
}

const Operator* const OPERATORS[] = {&MMFS, &MMFS_IMAGE_LISTS, &MS_DEFORM_ATTN};  // as in node_contract.INPUTS

struct Call {
    int32_t op, num_sizes, has_null, num_inputs;
    const int64_t* sizes;
    double null_logit;
    const int64_t* ranks;
    const int64_t* axes;  // of all inputs, one after the other
    const int64_t* types;
    const uint64_t* pointers;
    uint64_t output, workspace;
    int64_t num_sms;
};

struct Given {
    explicit Given(const Call& call)
        : node(*OPERATORS[call.op], {call.sizes, call.sizes + call.num_sizes}, call.has_null, call.null_logit) {
        const int64_t* axes = call.axes;
        for (int i = 0; i < call.num_inputs; axes += call.ranks[i++]) {
            shapes.emplace_back(axes, axes + call.ranks[i]);
            inputs.push_back({call.pointers[i], static_cast<Type>(call.types[i])});
        }
    }

    Node node;
    std::vector<Shape> shapes;
    std::vector<Address> inputs;
};

std::optional<Driver> opened;
std::optional<MachineCode> code;

}  // namespace

extern "C" {

const char* mmfs_launches(const Call* call) {
    return answered([&] {
        const Given given(*call);
        std::string text;
        const Address output = {call->output, given.inputs.at(0).type};
        for (const Launch& launch :
             launches(given.node, given.shapes, given.inputs, output, call->workspace, call->num_sms)) {
            text += launch.kernel;
            const auto& [x, y, z] = launch.grid;
            for (unsigned number : {x, y, z, launch.threads, launch.shared_bytes}) {
                text += " " + std::to_string(number);
            }
            text += " ";
            const auto* bytes = reinterpret_cast<const unsigned char*>(&launch.arguments);
            for (std::size_t i = 0; i < sizeof launch.arguments; ++i) {
                text += "0123456789abcdef"[bytes[i] >> 4];
                text += "0123456789abcdef"[bytes[i] & 15];
            }
            text += "\n";
        }
        return text;
    });
}

const char* mmfs_needs(const Call* call) {
    return answered([&] {
        const Given given(*call);
        const Type type = given.inputs.at(0).type;
        std::string text = std::to_string(workspace_bytes(given.node, given.shapes, type));
        for (const std::string& kernel : kernels_of(given.node, given.shapes.at(0).at(3), type)) text += " " + kernel;
        return text;
    });
}

const char* mmfs_takes_type(int op, int position, const int64_t* types) {
    return answered([&] {
        std::vector<Type> known;
        for (int i = 0; i <= position; ++i) known.push_back(static_cast<Type>(types[i]));
        return std::string(takes_type(*OPERATORS[op], position, known) ? "yes" : "no");
    });
}

const char* mmfs_open(const char* library) {
    return answered([&] {
        opened.emplace(library);
        code.emplace();
        return std::string();
    });
}

const char* mmfs_add_image(const char* name, const char* data, int64_t size) {
    return answered([&] {
        code->images.push_back({name, std::string(data, size)});
        return code->images.back().inflated();
    });
}

const char* mmfs_for_gpu(const char* kernel, int major, int minor) {
    return answered([&] { return code->for_gpu(kernel, major, minor).architecture(); });
}

const char* mmfs_run(const Call* call, uint64_t stream) {
    return answered([&] {
        const Given given(*call);
        opened->run(given.node, code->finder(), given.shapes, given.inputs, {call->output, given.inputs.at(0).type},
                    reinterpret_cast<void*>(call->workspace), reinterpret_cast<void*>(stream));
        return std::string();
    });
}
}

// The mmfs nodes as TensorRT plugins (IPluginV3), in a library that TensorRT loads by itself: trtexec --dynamicPlugins,
// Triton Inference Server, IPluginRegistry::loadLibrary, or from inside a plan (setPluginsToSerialize). plugin.py is
// the same in Python, and writes the same plans.
//
// TensorRT takes no exceptions: errors go to its logger, and the call returns a failure.

#include <NvInferRuntime.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_driver.h"
#include "cuda_launch.h"
#include "machine_code.h"
#include "cuda_node.h"

namespace mmfs::cuda {

namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

void say_error(const std::string& sentence) {
    nvinfer1::ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr;
    if (logger != nullptr) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, sentence.c_str());
    } else {
        std::fprintf(stderr, "%s\n", sentence.c_str());
    }
}

// The result of `work`; after an exception, which is logged, `failure`.
template <typename Result, typename Work>
Result guarded(Result failure, const Work& work) noexcept {
    try {
        return work();
    } catch (const std::exception& error) {
        say_error(error.what());
        return failure;
    }
}

Type type_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT:
            return Type::FLOAT32;
        case nvinfer1::DataType::kHALF:
            return Type::FLOAT16;
        case nvinfer1::DataType::kBF16:
            return Type::BFLOAT16;
        case nvinfer1::DataType::kINT64:
            return Type::INT64;
        default:
            return Type::OTHER;
    }
}

Shape shape_of(const nvinfer1::Dims& dims) { return Shape(dims.d, dims.d + dims.nbDims); }

std::vector<Shape> largest_shapes(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs) {
    std::vector<Shape> shapes;
    for (int32_t i = 0; i < num_inputs; ++i) shapes.push_back(shape_of(inputs[i].max));
    return shapes;
}

// The fields of a node in a plan, and the memory that TensorRT reads them from.
class Fields {
public:
    void set(const Node& node, const MachineCode& code) {
        sizes_.assign(node.spatial_shapes.begin(), node.spatial_shapes.end());
        null_logit_ = static_cast<float>(node.null_logit);
        use_null_ = node.has_null;
        fields_.clear();
        for (const std::string& name : node.op->attributes) {
            if (name == "spatial_shapes") add(name, sizes_.data(), nvinfer1::PluginFieldType::kINT32, sizes_.size());
            if (name == "null_logit") add(name, &null_logit_, nvinfer1::PluginFieldType::kFLOAT32, 1);
            if (name == "use_null") add(name, &use_null_, nvinfer1::PluginFieldType::kINT32, 1);
        }
        for (const PackedImage& image : code.images) {
            add(image.name, image.data.data(), nvinfer1::PluginFieldType::kINT8, image.data.size());
        }
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

private:
    void add(const std::string& name, const void* data, nvinfer1::PluginFieldType type, std::size_t length) {
        fields_.emplace_back(name.c_str(), data, type, static_cast<int32_t>(length));
    }

    std::vector<int32_t> sizes_;
    float null_logit_ = 0.0f;
    int32_t use_null_ = 0;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_ = {0, nullptr};
};

// A node, and its kernels once their type and channels are known. TensorRT copies plugins at will.
struct State {
    Node node;
    std::shared_ptr<const MachineCode> code;
};

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
public:
    explicit Plugin(State state) : state_(std::move(state)) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE:
                return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD:
                return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME:
                return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override {
        return guarded<nvinfer1::IPluginV3*>(nullptr, [&] { return new Plugin(state_); });
    }

    const char* getPluginName() const noexcept override { return state_.node.op->name.c_str(); }
    const char* getPluginVersion() const noexcept override { return VERSION; }
    const char* getPluginNamespace() const noexcept override { return NAMESPACE; }

    // Building

    int32_t getNbOutputs() const noexcept override { return 1; }

    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t, const nvinfer1::DataType* inputs,
                               int32_t) const noexcept override {
        outputs[0] = inputs[0];
        return 0;
    }

    // [B, Q, H*D]
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* outputs, int32_t, nvinfer1::IExprBuilder& builder) noexcept override {
        const nvinfer1::DimsExprs &value = inputs[0], &weights = inputs[state_.node.op->weights];
        outputs[0].nbDims = 3;
        outputs[0].d[0] = weights.d[0];
        outputs[0].d[1] = weights.d[1];
        outputs[0].d[2] = builder.operation(nvinfer1::DimensionOperation::kPROD, *value.d[2], *value.d[3]);
        return 0;
    }

    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t,
                                   int32_t) noexcept override {
        return guarded(false, [&] {
            std::vector<Type> types;
            for (int32_t i = 0; i <= position; ++i) types.push_back(type_of(tensors[i].desc.type));
            return tensors[position].desc.format == nvinfer1::TensorFormat::kLINEAR &&
                   takes_type(*state_.node.op, position, types);
        });
    }

    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        return guarded(-1, [&] {
            const Sizes sizes = sizes_of(state_.node, largest_shapes(inputs, num_inputs));
            const auto kernels = kernels_of(state_.node, sizes.num_channels, type_of(inputs[0].desc.type));
            state_.code = std::make_shared<MachineCode>(embedded(kernels));
            return 0;
        });
    }

    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept override {
        return guarded<size_t>(0, [&]() -> size_t {
            return workspace_bytes(state_.node, largest_shapes(inputs, num_inputs), type_of(inputs[0].desc.type));
        });
    }

    // Running

    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
        return guarded<const nvinfer1::PluginFieldCollection*>(nullptr, [&] {
            fields_.set(state_.node, code());
            return fields_.collection();
        });
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc*, int32_t, const nvinfer1::PluginTensorDesc*,
                          int32_t) noexcept override {
        return 0;
    }

    int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc*,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override {
        return guarded(-1, [&] {
            std::vector<Shape> shapes;
            std::vector<Address> addresses;
            for (std::size_t i = 0; i < state_.node.op->inputs.size(); ++i) {
                shapes.push_back(shape_of(input_descs[i].dims));
                addresses.push_back({reinterpret_cast<std::uintptr_t>(inputs[i]), type_of(input_descs[i].type)});
            }
            const Address output = {reinterpret_cast<std::uintptr_t>(outputs[0]), addresses[0].type};
            driver().run(state_.node, code().finder(), shapes, addresses, output, workspace, stream);
            return 0;
        });
    }

private:
    const MachineCode& code() const {
        if (!state_.code) throw std::logic_error("TensorRT has to configure a plugin before it writes or runs it.");
        return *state_.code;
    }

    State state_;
    Fields fields_;
};

std::vector<double> numbers_of(const nvinfer1::PluginField& field) {
    if (field.length < 0 || (field.data == nullptr && field.length > 0)) {
        throw std::invalid_argument(std::string(field.name) + " is a field without data. Expected numbers.");
    }
    std::vector<double> numbers;
    for (int32_t i = 0; i < field.length; ++i) {
        switch (field.type) {
            case nvinfer1::PluginFieldType::kINT32:
                numbers.push_back(static_cast<const int32_t*>(field.data)[i]);
                break;
            case nvinfer1::PluginFieldType::kINT64:
                numbers.push_back(static_cast<const int64_t*>(field.data)[i]);
                break;
            case nvinfer1::PluginFieldType::kFLOAT32:
                numbers.push_back(static_cast<const float*>(field.data)[i]);
                break;
            case nvinfer1::PluginFieldType::kFLOAT64:
                numbers.push_back(static_cast<const double*>(field.data)[i]);
                break;
            default:
                throw std::invalid_argument(std::string(field.name) + " has the field type " +
                                            std::to_string(static_cast<int>(field.type)) + ". Expected numbers.");
        }
    }
    return numbers;
}

Node node_of(const Operator& op, const nvinfer1::PluginFieldCollection& given) {
    std::map<std::string, std::vector<double>> values;
    for (int32_t i = 0; i < given.nbFields; ++i) {
        for (const std::string& name : op.attributes) {
            if (name == given.fields[i].name) values[name] = numbers_of(given.fields[i]);
        }
    }
    for (const std::string& name : op.attributes) {
        if (values[name].empty()) throw std::invalid_argument("The node " + op.name + " lacks " + name + ".");
    }
    std::vector<int64> shapes;
    for (const double side : values["spatial_shapes"]) {
        // A conversion of what does not fit would be undefined; the comparisons are false for NaN.
        if (!(std::abs(side) <= std::numeric_limits<int32_t>::max() && side == std::floor(side))) {
            throw std::invalid_argument("spatial_shapes of " + op.name + " holds " + std::to_string(side) +
                                        ". Expected whole numbers of 32 bits.");
        }
        shapes.push_back(static_cast<int64>(side));
    }
    for (const std::string& name : op.attributes) {
        if (name != "spatial_shapes" && values[name].size() != 1) {
            throw std::invalid_argument(name + " of " + op.name + " holds " + std::to_string(values[name].size()) +
                                        " numbers. Expected one.");
        }
    }
    const bool uses_null = values.count("use_null") && values["use_null"][0] != 0.0;
    return Node(op, std::move(shapes), uses_null, uses_null ? values["null_logit"][0] : 0.0);
}

// Checks the images now, so that damage is found before the first kernel is launched.
std::shared_ptr<const MachineCode> code_of(const nvinfer1::PluginFieldCollection& given) {
    auto code = std::make_shared<MachineCode>();
    for (int32_t i = 0; i < given.nbFields; ++i) {
        const nvinfer1::PluginField& field = given.fields[i];
        const std::string name = field.name;
        if (name.find('@') == std::string::npos) continue;
        code->images.push_back({name, std::string(static_cast<const char*>(field.data), field.length)});
        code->images.back().inflated();
    }
    return code;
}

class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    explicit Creator(const Operator& op) : op_(op) {
        for (const std::string& name : op.attributes) fields_.emplace_back(name.c_str());
        names_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given,
                                      nvinfer1::TensorRTPhase phase) noexcept override {
        return guarded<nvinfer1::IPluginV3*>(nullptr, [&] {
            State state = {node_of(op_, *given), nullptr};
            if (phase == nvinfer1::TensorRTPhase::kRUNTIME) state.code = code_of(*given);
            return new Plugin(std::move(state));
        });
    }

    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &names_; }
    const char* getPluginName() const noexcept override { return op_.name.c_str(); }
    const char* getPluginVersion() const noexcept override { return VERSION; }
    const char* getPluginNamespace() const noexcept override { return NAMESPACE; }

private:
    const Operator& op_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection names_;
};

}  // namespace

}  // namespace mmfs::cuda

// By these two names TensorRT finds the creators in a plugin library, and gives it a logger.
extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    using namespace mmfs::cuda;
    static Creator ranges(MMFS), lists(MMFS_IMAGE_LISTS), ms_deform_attn(MS_DEFORM_ATTN);
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&ranges, &lists, &ms_deform_attn};
    count = 3;
    return creators;
}

__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    mmfs::cuda::logger_finder = finder;
}
}

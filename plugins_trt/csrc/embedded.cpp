// The machine code inside this library. embedded.inc is written by `python -m plugins_trt.embed`: one entry, of name,
// data and size, for each kernel and architecture.

#include <cstddef>
#include <stdexcept>

#include "machine_code.h"

namespace mmfs::cuda {

namespace {

struct Entry {
    const char* name;
    const char* data;
    std::size_t size;
};

const Entry ENTRIES[] = {
#include "embedded.inc"
};

}  // namespace

MachineCode embedded(const std::vector<std::string>& kernels) {
    MachineCode code;
    for (const std::string& kernel : kernels) {
        const std::size_t before = code.images.size();
        for (const Entry& entry : ENTRIES) {
            PackedImage image = {entry.name, {}};
            if (image.kernel() != kernel) continue;
            image.data.assign(entry.data, entry.size);
            code.images.push_back(image);
        }
        if (code.images.size() == before) {
            throw std::runtime_error("The plugin library holds no machine code of " + kernel +
                                     ". Build it again with the channels of a head among CHANNELS, and the type of the "
                                     "values among TYPES, or build the engine with the plugin in Python.");
        }
    }
    return code;
}

}  // namespace mmfs::cuda

#include "machine_code.h"

#include <zlib.h>

#include <map>
#include <stdexcept>

namespace mmfs::cuda {

std::string PackedImage::inflated() const {
    z_stream stream = {};
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
    stream.avail_in = static_cast<uInt>(data.size());
    if (inflateInit(&stream) != Z_OK) throw std::runtime_error("zlib cannot be started.");
    std::string image;
    std::vector<char> piece(1 << 16);
    int status = Z_OK;
    while (status == Z_OK) {
        stream.next_out = reinterpret_cast<Bytef*>(piece.data());
        stream.avail_out = static_cast<uInt>(piece.size());
        status = inflate(&stream, Z_NO_FLUSH);
        image.append(piece.data(), piece.size() - stream.avail_out);
    }
    inflateEnd(&stream);
    if (status != Z_STREAM_END) {
        throw std::runtime_error("The kernel " + kernel() + " for " + architecture() +
                                 " is damaged. Build the engine again.");
    }
    return image;
}

const PackedImage& MachineCode::for_gpu(const std::string& kernel, int major, int minor) const {
    const std::string sm = "sm_" + std::to_string(major), compute = "compute_";
    std::map<int, const PackedImage*> binary, translatable;  // by minor capability; by capability times ten
    std::string all;
    for (const PackedImage& image : images) {
        if (image.kernel() != kernel) continue;
        const std::string architecture = image.architecture();
        all += (all.empty() ? "" : ", ") + architecture;
        if (architecture.size() == sm.size() + 1 && architecture.rfind(sm, 0) == 0) {
            binary[architecture.back() - '0'] = &image;
        } else if (architecture.rfind(compute, 0) == 0) {
            translatable[std::stoi(architecture.substr(compute.size()))] = &image;
        }
    }
    if (all.empty()) {
        throw std::runtime_error("The engine holds no kernel " + kernel +
                                 ": another version of mmfs built it. Build the engine again.");
    }
    if (const auto above = binary.upper_bound(minor); above != binary.begin()) return *std::prev(above)->second;
    if (const auto above = translatable.upper_bound(10 * major + minor); above != translatable.begin()) {
        return *std::prev(above)->second;
    }
    throw std::runtime_error("The GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                             ", and " + kernel + " was compiled for " + all +
                             ". Build the engine again for this GPU.");
}

FindImage MachineCode::finder() const {
    return [this](const std::string& kernel, int major, int minor) {
        const PackedImage& packed = for_gpu(kernel, major, minor);
        return Image{packed.data, [&packed] { return packed.inflated(); }};
    };
}

}  // namespace mmfs::cuda

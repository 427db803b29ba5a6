// What nvcc puts into object files.
#pragma once

#include <string>
#include <vector>

namespace ptx {

// The PTX texts of a fat binary, as __cudaRegisterFatBinary gets it. An Error if it is compressed, or has none.
std::vector<std::string> texts_of(const void* wrapper);

// The number in ".target sm_90".
int target_of(const std::string& text);

}  // namespace ptx
